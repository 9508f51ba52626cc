"""torch_private/dispatcher.py: operators, their schemas and definitions, and the mode that sees them."""

import pytest
import torch

from pytest_torchexport.torch_private.dispatcher import (
    aten_of_prim,
    decomposition_of,
    dispatch_mode,
    is_operator,
    kernels_of,
    only_in_batches,
    registrations,
    schema_of,
)

ADD = torch.ops.aten.add.Tensor


def kernel(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def fake(x):
    return x.clone()


def test_the_functions_of_a_custom_operator_are_the_users():
    operator = torch.library.custom_op("kept_private::kernel", kernel, mutates_args=())
    operator.register_fake(fake)
    assert set(kernels_of(operator)) == {kernel, fake}
    assert kernels_of(kernel) is None


def test_an_operator_has_a_schema_with_what_it_writes_to():
    assert is_operator(ADD)
    assert not is_operator(torch.add)
    schema = schema_of(torch.ops.aten.add_.Tensor)
    assert schema.name == "aten::add_"
    written = [
        item.name for item in schema.arguments if item.alias_info and item.alias_info.is_write
    ]
    assert written == ["self"]
    assert schema_of(torch.ops.higher_order.cond) is None


def test_each_overload_is_found_where_it_was_registered():
    @torch.library.custom_op("torch_private_test::double", mutates_args=())
    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    ((overload, function),) = registrations("torch_private_test", "double")
    assert (overload, function.__name__) == ("default", "double")
    found = dict(registrations("aten", "add"))
    assert {"Tensor", "Scalar"} <= found.keys()
    path, line = found["Tensor"]
    assert path.endswith(".cpp")
    assert line > 0
    assert list(registrations("aten", "no_such_operator")) == []


def test_an_operator_is_computed_by_simpler_ones():
    x = torch.arange(6.0)
    parts = decomposition_of(torch.ops.aten.mse_loss.default)
    assert parts is not None
    assert torch.equal(parts(x, x + 2), torch.tensor(4.0))
    assert decomposition_of(torch.ops.aten.avg_pool2d.default)(x[None, None], [1]) is (
        NotImplemented
    )


def test_a_prim_is_computed_by_an_operator():
    of_prim = aten_of_prim(torch.ops.prims.sum.default)
    assert of_prim is not None
    assert of_prim(torch.ones(2, 3), [1]).tolist() == [3.0, 3.0]
    assert aten_of_prim(ADD) is None


def test_a_dispatch_mode_sees_the_operators_of_its_block():
    seen = []

    def handle(operator, args, kwargs):
        seen.append(str(operator))
        return operator(*args, **kwargs)

    with dispatch_mode(handle):
        torch.zeros(2) + 1
    assert seen == ["aten.zeros.default", "aten.add.Tensor"]


def test_an_operator_without_a_batching_rule_raises_in_batches():
    table, offsets = torch.ones(4, 2), torch.tensor([0])

    def bag(index: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding_bag(index[None], table, offsets)

    with only_in_batches(), pytest.raises(RuntimeError):
        torch.func.vmap(bag)(torch.arange(3))
    assert torch._C._functorch._is_vmap_fallback_enabled()
