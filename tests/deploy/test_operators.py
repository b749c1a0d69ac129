"""A graph is looked through before it is read: what recommenders need passes, all else is one sentence."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from deploy.serving import operators
from deploy.serving.artefact import ArtefactError
from deploy.serving.operators import check


def saved(folder: Path, *nodes: onnx.NodeProto, weights: tuple = (), functions: tuple = ()) -> Path:
    there = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in ("x", "y")]
    graph = helper.make_graph(
        list(nodes) or [helper.make_node("Add", ["x", "x"], ["y"])], "g", there[:1], there[1:], list(weights)
    )
    model = helper.make_model(graph, functions=list(functions))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def elsewhere(location: str) -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def test_what_recommenders_need_passes(tmp_path: Path):
    check(saved(tmp_path))
    check(saved(tmp_path, helper.make_node("MatMulNBits", ["x"], ["y"], domain="com.microsoft")))
    (tmp_path / "model.data").write_bytes(bytes(12))
    check(saved(tmp_path, weights=(elsewhere("model.data"),)))


BRANCH = helper.make_graph([helper.make_node("StringNormalizer", ["x"], ["y"])], "b", [], [])


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (helper.make_node("Loop", ["x"], ["y"], body=BRANCH), "StringNormalizer"),
        (helper.make_node("If", ["x"], ["y"], then_branch=helper.make_graph([], "e", [], []), else_branch=helper.make_graph([], "e", [], [])), "If"),
        (helper.make_node("Add", ["x"], ["y"], domain="some.company"), "some.company.Add"),
        (helper.make_node("Constant", [], ["y"], value=elsewhere("/etc/passwd")), "'/etc/passwd'"),
    ],
)  # fmt: skip
def test_other_operators_are_refused(node: onnx.NodeProto, said: str, tmp_path: Path):
    with pytest.raises(ArtefactError, match="is not served") as caught:
        check(saved(tmp_path, node))
    assert said in str(caught.value)


def test_weights_from_elsewhere_functions_and_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ArtefactError, match=r"weights are to be read from '\.\./histories\.npy'"):
        check(saved(tmp_path, weights=(elsewhere("../histories.npy"),)))
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    own = helper.make_function("d", "Own", ["a"], ["b"], body, [helper.make_opsetid("", 20)])
    with pytest.raises(ArtefactError, match="functions of its own"):
        check(saved(tmp_path, functions=(own,)))
    with pytest.raises(ArtefactError, match=r"no graph that can be read .*model\.data"):
        check(saved(tmp_path, weights=(elsewhere("model.data"),)))
    monkeypatch.setattr(operators, "_memory", lambda: 10)
    with pytest.raises(ArtefactError, match="there are 10 of memory"):
        check(saved(tmp_path))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 0.999), length=st.floats(0, 1), byte=st.integers(0, 255))
def test_a_damaged_graph_ends_in_a_sentence_or_is_one(place: float, length: float, byte: int, tmp_path: Path):
    changed = bytearray(saved(tmp_path, weights=(numpy_helper.from_array(np.zeros(3, np.float32), "w"),)).read_bytes())
    changed[int(place * len(changed))] = byte
    (tmp_path / "model.onnx").write_bytes(changed[: int(length * len(changed))])
    with suppress(ArtefactError):  # anything else fails
        check(tmp_path / "model.onnx")
