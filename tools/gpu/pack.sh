#!/usr/bin/env bash
# What goes along to a lent GPU, in two folders beside the code that git is told to ignore.
#
#     bash tools/gpu/pack.sh FOLDER [NAME=RESULTS[:DATASET/BACKBONE] ...]
#
# `.whl` gets wheels, for Python 3.12, of what its Python may lack, in the versions of constraints.txt. FOLDER, whose name
# begins with `.gpu`, gets the commit that is checked out, without its files, so that records can name it, and of each
# results folder the records of a GPU, plans and suites that a run goes on from: there it is RESULTS/NAME (see start.sh).
# MORE names further packages, BUNDLES shipped bundles, and DATA a folder of images that go along. Of several calls on one
# machine each has a FOLDER of its own, and the first the wheels. Commit first; then thin.py says whether all of it is small
# enough.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$1
shift
[[ $folder = .gpu* ]] || { echo "a folder whose name begins with .gpu, not $folder" >&2; exit 1; }
lacking=(nflows torch-fidelity zuko platformdirs pydantic pydantic-core annotated-types typing-inspection typer rich filelock
    ${MORE:-})
python=${PYTHON:-python3}
exclude=$(git rev-parse --git-path info/exclude)
grep -qxF '/.gpu*/' "$exclude" || printf '/.whl/\n/.gpu*/\n' >>"$exclude"
[ -z "$(git status --porcelain)" ] || { echo "commit first: records name the commit" >&2; exit 1; }

rm -rf "$folder"
mkdir -p .whl "$folder/bundles"
for name in "${lacking[@]}"; do
    pinned=$(grep -iE "^${name//-/[-_]}==" constraints.txt) || { echo "constraints.txt does not pin $name" >&2; exit 1; }
    ls .whl/"${name//-/_}"-* >/dev/null 2>&1 && continue
    if [ "$name" = nflows ]; then # which comes as source alone
        "$python" -m pip wheel -q --no-deps -w .whl "$pinned"
    else
        "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
            --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
            -d .whl "$pinned"
    fi
done

bare=$(mktemp -d)
git clone -q --depth 1 --filter=blob:none --no-checkout --upload-pack "git -c uploadpack.allowFilter=true upload-pack" \
    "file://$PWD" "$bare/code"
tar -C "$bare/code" -cf "$folder/git.tar" .git
rm -rf "$bare"
[ -z "${DATA:-}" ] || cp -rL "$DATA" "$folder/data"
for bundle in ${BUNDLES:-}; do cp -r "backbones/pretrained/$bundle" "$folder/bundles/"; done
for pair in "$@"; do
    IFS=: read -r results part <<<"${pair#*=}:"
    mapfile -t there < <(cd "$results" && ls -d protocols tunings suites 2>/dev/null)
    { # of the records those of a GPU, with which a run there goes on
        (cd "$results" && grep -lrF '"device": "cuda"' "records/${part%:}" || true)
        printf '%s\n' "${there[@]}"
    } | tar -C "$results" -czf "$folder/${pair%%=*}.tar.gz" -T -
done
du -sh .whl "$folder"
