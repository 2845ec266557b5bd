"""Full reconstructions, of every latent group: made again alike, and damaged ones named."""

import pytest
import torch
from safetensors.torch import load_file
from vaes import reconstructed

from benchmark.store.sealed import read_sealed

pytestmark = pytest.mark.usefixtures("seeded_modules")


def test_full_reconstructions_are_made_again_by_the_reference_command_alike(squares, tmp_path, cli):
    squares("squares-nvae", epochs=1)
    bundle, out = tmp_path / "squares-nvae", tmp_path / "again"
    words = ["--dataset", tmp_path / "squares.npz", "--bundle", bundle, "--split", "test", "--out", out]
    done = cli("reference", *words, "--device", "cpu")
    assert done.code == 0
    assert "and full reconstructions" in done.err
    (again,) = out.glob("digit-cnn-test-*.safetensors")
    assert torch.equal(load_file(again)["features"].float(), reconstructed(bundle, "test"))
    assert read_sealed(again.with_suffix(".json"))["count"] == 60


def test_a_training_that_ends_before_its_full_reconstructions_leaves_no_bundle_and_goes_on(
    squares, tmp_path, monkeypatch, cli
):
    """Else the bundle would be found whole, and would lack a row for good."""

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("benchmark.bundles.making.make_reconstructions", interrupted)
        with pytest.raises((AssertionError, KeyboardInterrupt)):
            squares("squares-nvae", epochs=2)
    assert not (tmp_path / "squares-nvae").exists()
    assert [path.name for path in tmp_path.iterdir() if "squares-nvae" in path.name] == []
    said = squares("squares-nvae", epochs=2)[1]
    assert "epoch 2" not in said.replace("in epoch 2 of 2", ""), "its epochs are not trained again"
    assert len(reconstructed(tmp_path / "squares-nvae", "test")) == 60


def test_damaged_full_reconstructions_are_named_and_leave_their_row_out(squares, tmp_path, cli):
    squares("squares-nvae", epochs=1)
    bundle = tmp_path / "squares-nvae"
    (path,) = (bundle / "reference").glob("digit-cnn-test-*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    words = ["--dataset", tmp_path / "squares.npz", "--bundle", bundle, "--seeds", 1, "--priors", "gaussian"]
    done = cli("run", *words, "--device", "cpu", "--metrics", "fd", "--results", tmp_path / "results")
    assert done.code == 0
    assert "full reconstructions are damaged" in done.err
    assert path.name in done.err
    assert "| reconstruction" in done.out
    assert "full_reconstruction" not in done.out
