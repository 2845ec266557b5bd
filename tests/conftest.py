"""Every test has a cache of its own and finds no image data but the embedded digits."""

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENT_PRIOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LATENT_PRIOR_DATA", raising=False)
