"""What a record is to hold, so that whoever reads one may count on it.

A seal says that a file is whole, and nothing of what is in it: another version, another program or a hand may have
sealed anything. What is not named here may be anything; what is, is of its type, without conversion.
"""

from __future__ import annotations

from pathlib import Path
from typing import (
    Annotated,
    Any,
    NotRequired,  # which pydantic asks for below Python 3.12
    TypeVar,
)

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from benchmark.store.sealed import Damaged, read_sealed
from benchmark.text import without_kind

#: at least one character that is no dot, and none that leads elsewhere or that no line can show
_NAME = r"^[^/\\\x00-\x1f\x7f]*[^/\\\x00-\x1f\x7f.][^/\\\x00-\x1f\x7f]*$"

#: a word that names a folder, or a part of a file's name
Name = Annotated[str, Field(pattern=_NAME, max_length=255)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]+$")]
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Seed = Annotated[int, Field(ge=0, lt=2**64)]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
Threads = Annotated[int, Field(ge=0, lt=2**31)]


class _Row(TypedDict):
    dataset: Name
    backbone: Name
    backbone_seed: NotRequired[Seed]  # which records of the first bundles do not have
    bundle: Name
    prior: Name
    label: str
    config: dict[str, Any]
    config_hash: str
    seed: Seed
    budget: str | None
    device: Name
    deterministic: NotRequired[bool]  # of a bundle whose encoder gives points
    groups: NotRequired[dict[str, Any]]  # of a hierarchy, other ones than the top


class _Code(TypedDict):
    version: str
    commit: str | None
    dirty: bool | None


class _Provenance(TypedDict):
    code: _Code
    packages: dict[str, str]
    device: str
    threads: Threads
    command: str
    time: Time


class _Machine(TypedDict):
    device: str
    threads: Threads
    dtype: str


class _Metric(TypedDict):
    name: str
    version: NotRequired[int]
    source: NotRequired[str]  # of a stranger's, in its place


class _MeasurementIdentity(TypedDict):
    fit: str
    metric: _Metric
    settings: dict[str, Any]
    machine: NotRequired[_Machine]


class _FitValues(TypedDict):
    fit_seconds: NotRequired[Seconds]


class _Record(TypedDict):
    kind: Name
    id: Hash
    status: str
    row: _Row
    provenance: _Provenance


class _Fit(_Record):
    identity: dict[str, Any]


class _MadeFit(_Fit):
    values: _FitValues
    log: NotRequired[list[dict[str, Any]]]


class _FailedFit(_Fit):
    reason: str


class _Measurement(_Record):
    identity: _MeasurementIdentity
    seconds: NotRequired[Seconds]


class _Made(_Measurement):
    values: dict[str, Any]


class _Failed(_Measurement):
    reason: str


_RECORDS: dict[tuple[bool, bool], TypeAdapter[Any]] = {
    (True, True): TypeAdapter(_MadeFit),
    (True, False): TypeAdapter(_FailedFit),
    (False, True): TypeAdapter(_Made),
    (False, False): TypeAdapter(_Failed),
}
_NAME_ALONE: TypeAdapter[str] = TypeAdapter(Name)


def check_record(record: dict[str, Any]) -> None:
    """Raise `ValueError`, in one line with the field, where a record does not hold what tables count on.

    Of which kind and status it is must be known already.
    """
    kind, identity = record["kind"], record["identity"]
    check(_RECORDS[kind == "fit", record["status"] == "ok"], record)
    if kind != "fit" and identity["metric"]["name"] != kind:
        raise ValueError(f"identity.metric.name: expected {kind}, not {identity['metric']['name']!r}")


def check_name(name: str) -> None:
    """Raise `ValueError` where a name cannot be that of a folder: it would lead elsewhere, or nowhere."""
    check(_NAME_ALONE, name)


def check(schema: TypeAdapter[Any], value: Any) -> Any:
    """The value as the schema has it; raises `ValueError`, in one line with the field, where it does not fit."""
    try:
        return schema.validate_python(value, strict=True)
    except ValidationError as error:
        raise ValueError(describe_problem(error)) from error


def describe_problem(error: ValidationError) -> str:
    """The first thing that does not fit: where it is, what is said of it, and what is there."""
    problem, *_ = error.errors(include_url=False)
    field = ".".join(map(str, problem["loc"]))
    given = "" if problem["type"] == "missing" else f", not {str(problem['input'])[:60]!r}"
    return f"{field}: {without_kind(problem['msg']).lower()}{given}".removeprefix(": ")


Model = TypeVar("Model", bound=BaseModel)


def read_model(path: Path, model: type[Model]) -> Model:
    """What a sealed file holds. Raises `Damaged`, with the first field that does not fit."""
    try:
        return model.model_validate({name: value for name, value in read_sealed(path).items() if name != "seal"})
    except ValidationError as error:
        raise Damaged(f"{path}: {describe_problem(error)}") from error
