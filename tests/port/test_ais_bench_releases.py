"""What differs between older and newer releases of ais_bench differs between those of the stand-in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ais_bench_stand_in import both_releases
from om_files import SIZE, features, write_om

GOOD = np.random.default_rng(5).standard_normal((1, 3, SIZE, SIZE), np.float32)
new_release = pytest.mark.parametrize("ais_bench", ["new"], indirect=True)
old_release = pytest.mark.parametrize("ais_bench", ["old"], indirect=True)


@pytest.fixture
def om(tmp_path: Path) -> Path:
    return write_om(tmp_path / "model.om")[0]


@pytest.fixture
def session(om: Path, ais_bench):
    return ais_bench.InferSession(0, str(om))


@both_releases
def test_words_of_each_release(request: pytest.FixtureRequest, session) -> None:
    old = request.node.callspec.params["ais_bench"] == "old"
    session.infer([GOOD])
    only_new = ("summary", "free_resource", "set_context", "reset_summaryinfo")
    assert [hasattr(session, word) for word in only_new] == [not old] * 4
    assert [hasattr(session, word) for word in ("sumary", "reset_sumaryinfo")] == [old] * 2
    (spent,) = (session.sumary() if old else session.summary()).exec_time_list
    assert isinstance(spent, float) if old else spent[0] <= spent[1]
    if old:
        with pytest.raises(TypeError, match="out_array"):
            session.infer([GOOD], out_array=True)
    else:
        session.infer([GOOD], out_array=True)


@old_release
def test_a_mode_of_another_name_in_an_older_release(ais_bench, session) -> None:
    with pytest.raises(ais_bench.WouldCorrupt, match="passed over"):
        session.infer([GOOD], "dynbatch")


@new_release
def test_a_mode_of_another_name_in_a_newer_release(session) -> None:
    with pytest.raises(ValueError, match="illegal"):
        session.infer([GOOD], "dynbatch")


@both_releases
def test_a_dynamic_batch(tmp_path: Path, ais_bench) -> None:
    path, weights = write_om(tmp_path / "any.om", batch=None, profiles=(1, 2))
    session, two = ais_bench.InferSession(0, str(path)), np.concatenate([GOOD, GOOD + 1])
    assert session.get_inputs()[0].shape == [-1, 3, SIZE, SIZE]
    assert np.abs(session.infer([two], "dymbatch")[0] - features(two, weights)).max() < 1e-5
    with pytest.raises(RuntimeError, match=r"batch 3 is none of \[1, 2\]"):
        session.infer([np.concatenate([two, GOOD])], "dymbatch")
    with pytest.raises(RuntimeError, match=r"\[-1\]"):
        session.infer([two], "static")


@both_releases
def test_a_fixed_batch_has_no_profiles(session) -> None:
    with pytest.raises(RuntimeError, match="not a dymbatch model"):
        session.infer([GOOD], "dymbatch")


BAD_PATHS = ["model.onnx", "mo del.om", "模型.om", "link.om", "666.om", "660.om"]


def bad_path(name: str, om: Path) -> Path:
    path = om.with_name(name)
    if name == "link.om":
        path.symlink_to(om)
    else:
        om.rename(path)
        path.chmod(int(path.stem, 8) if path.stem.isdigit() else 0o640)
    return path


@new_release
@pytest.mark.parametrize("name", BAD_PATHS)
def test_paths_in_a_newer_release(name: str, om: Path, ais_bench) -> None:
    with pytest.raises(RuntimeError, match=r"is illegal\. Please check"):
        ais_bench.InferSession(0, str(bad_path(name, om)))


@old_release
@pytest.mark.parametrize("name", BAD_PATHS)
def test_paths_in_an_older_release(name: str, om: Path, ais_bench) -> None:
    ais_bench.InferSession(0, str(bad_path(name, om))).infer([GOOD])
