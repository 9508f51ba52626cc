"""plugin/capture.py: what a test body called, as it was before it was called."""

from __future__ import annotations

import functools
import threading
import weakref

import pytest
import torch
from torch import nn

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.grad_mode import GradMode
from pytest_torchexport.outcomes.subject import Subject, as_module
from pytest_torchexport.plugin.capture import (
    MAX_CALLS_OF_ONE_SHAPE,
    MAX_SHAPES,
    MAX_SUBJECTS,
    UNKNOWN_ARGUMENTS,
    CallRecorder,
)
from pytest_torchexport.results.failures import SpecError


class Inner(nn.Module):
    def forward(self, x, scale=1.0):
        return x * scale


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return self.inner(x)


def recorded(body):
    with CallRecorder() as recorder:
        body()
    return recorder.recordings


def test_only_the_outermost_call_is_recorded():
    (recording,) = recorded(lambda: Outer()(torch.ones(2)))
    assert type(recording.module).__name__ == "Outer"
    assert len(recording.calls) == 1


def test_the_module_is_a_copy_from_before_its_first_call():
    net = Outer()
    (recording,) = recorded(lambda: (net(torch.ones(2)), net(torch.ones(3))))
    assert net.count.item() == 2
    assert recording.module is not net
    assert recording.module.count.item() == 0


def test_calls_are_detached_clones():
    x = torch.ones(2, requires_grad=True)
    (recording,) = recorded(lambda: Inner()(x))
    with torch.no_grad():
        x.zero_()
    assert recording.calls[0].args[0].tolist() == [1, 1]
    assert recording.calls[0].args[0].is_leaf


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_grad_mode_of_the_first_call_is_recorded_and_nothing_is_made_in_inference_mode(mode):
    with mode():
        expected = GradMode.current()
        net, x = Outer(), torch.ones(2)
        (recording,) = recorded(lambda: net(x))
    assert recording.grad_mode is expected
    assert not recording.calls[0].args[0].is_inference()
    assert not recording.module.count.is_inference()


def test_a_call_under_autocast_is_told():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (recording,) = recorded(lambda: Inner()(torch.ones(2)))
    assert recording.autocast
    (recording,) = recorded(lambda: Inner()(torch.ones(2)))
    assert not recording.autocast


def test_a_few_calls_of_each_shape_and_never_too_many_shapes():
    net = Inner()

    def body():
        for size in (*[2] * 5, *range(1, 3 * MAX_SHAPES)):
            net(torch.ones(size))

    (recording,) = recorded(body)
    sizes = [len(call.args[0]) for call in recording.calls]
    assert sizes[:4] == [*[2] * MAX_CALLS_OF_ONE_SHAPE, 1]
    assert len(set(sizes)) == MAX_SHAPES


def test_calls_of_another_structure_or_python_value_are_recorded_apart():
    net = Inner()

    def body():
        net(torch.ones(2))
        net(torch.ones(2), scale=2.0)
        net(torch.ones(2), scale=3.0)
        net(torch.ones(2, 2))
        net(torch.ones(2, dtype=torch.float64))

    assert len(recorded(body)) == 5


def build(net, x):
    return net(x)  # of a helper


@pytest.mark.parametrize("whole", [True, False], ids=["body is known", "body is not known"])
def test_the_tests_line_of_the_first_call_is_recorded(whole):
    def body():
        build(Inner(), torch.ones(2))  # of the body
        Inner().forward(torch.ones(2))  # not a call of the module
        Outer().forward(torch.ones(2))  # found by its layer

    with CallRecorder(body if whole else None) as recorder:
        body()
    texts = [recording.line.text.partition("# ")[2] for recording in recorder.recordings]
    first = "of the body" if whole else "of a helper"
    assert texts == [first, "found by its layer"]


def test_a_call_is_described_by_its_leaves():
    call = Call((torch.ones(2), [1, "a"]), {"mask": {"m": torch.ones(3, dtype=torch.bool)}})
    assert call.describe() == "float32[2], 1, 'a', mask['m']=bool[3]"
    assert Call().describe() == "no arguments"


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_has_no_shape_and_is_recorded(layout):
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=layout)
    (recording,) = recorded(lambda: nn.Identity()(nested))
    assert len(recording.calls) == 1


def test_keyword_arguments_are_kept_as_such():
    (recording,) = recorded(lambda: Inner()(x=torch.ones(2), scale=2.0))
    assert recording.calls[0].args == ()
    assert list(recording.calls[0].kwargs) == ["x", "scale"]


def test_calls_that_raised_and_losses_are_left_out():
    def body():
        with pytest.raises(RuntimeError):
            nn.Linear(3, 2)(torch.ones(7))
        nn.MSELoss()(torch.ones(2), torch.ones(2))

    assert recorded(body) == []


def test_a_call_after_one_that_raised_is_recorded():
    net = nn.Linear(3, 2)

    def body():
        with pytest.raises(RuntimeError):
            net(torch.ones(7))
        net(torch.ones(1, 3))

    (recording,) = recorded(body)
    assert [tuple(call.args[0].shape) for call in recording.calls] == [(1, 3)]


def test_a_compiled_module_is_recorded_as_what_it_wraps():
    net = Inner()
    compiled = torch.compile(net, backend="eager")
    (recording,) = recorded(lambda: compiled(torch.ones(2)))
    assert type(recording.module) is Inner
    assert recording.wrappers == ("torch.compile",)


def test_two_instances_are_two_recordings_and_there_is_a_limit():
    with CallRecorder() as recorder:
        for _ in range(MAX_SUBJECTS + 3):
            Inner()(torch.ones(2))
    assert len(recorder.recordings) == MAX_SUBJECTS
    assert recorder.left_out == 3


def test_the_call_of_modules_is_put_back_whatever_happens():
    original = nn.Module.__call__
    with CallRecorder():
        assert nn.Module.__call__ is not original
    assert nn.Module.__call__ is original

    def body():
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"), CallRecorder():
        body()
    assert nn.Module.__call__ is original


def test_a_thread_of_the_body_is_recorded_too():
    def body():
        thread = threading.Thread(target=lambda: Outer()(torch.ones(2)))
        thread.start()
        thread.join()

    (recording,) = recorded(body)
    assert type(recording.module) is Outer


class Uncopyable(Inner):
    def __deepcopy__(self, memo):
        raise TypeError("mine alone")


def test_a_module_that_cannot_be_copied_is_a_problem_and_the_body_goes_on():
    (recording,) = recorded(lambda: Uncopyable()(torch.ones(2)))
    assert isinstance(recording.problem, SpecError)
    assert "mine alone" in str(recording.problem)


# -- subjects --------------------------------------------------------------------------------------


def double(x):
    return x * 2


def test_modules_functions_and_bound_methods_are_subjects():
    net = Outer()
    assert Subject.of(net).name == "Outer"
    assert Subject.of(net).module is net
    assert Subject.of(double).module is None
    assert Subject.of(net.inner.forward).module is net.inner
    assert list(Subject.of(net.inner).signature().parameters) == ["x", "scale"]


@pytest.mark.parametrize("thing", [3, "net", None, torch.ones(2)])
def test_what_cannot_be_called_is_no_subject(thing):
    with pytest.raises(SpecError, match=r"cannot be checked; legal: an nn\.Module"):
        Subject.of(thing)


def test_a_copy_shares_nothing_and_a_bound_method_moves_with_its_module():
    net = nn.Linear(2, 2)
    copied = Subject.of(net).copy()
    with torch.no_grad():
        copied.module.weight.zero_()
    assert net.weight.abs().sum() > 0
    method = Subject.of(net.forward).copy()
    assert method.module is not net
    assert method.function.__self__ is method.module


def test_an_attribute_computed_from_a_parameter_is_copied_too():
    net = nn.Linear(2, 2)
    net.cached = net.weight * 2
    assert torch.equal(Subject.of(net).copy().module.cached, net.cached)


def test_a_function_becomes_a_module_for_exporters_that_take_nothing_else():
    assert as_module(double)(torch.ones(1)).item() == 2
    net = nn.Linear(2, 2)
    assert as_module(net) is net
    wrapped = as_module(net.forward)
    assert [name for name, _ in wrapped.named_parameters()] == ["owner.weight", "owner.bias"]


def test_the_packages_of_a_subject_are_those_its_code_comes_from():
    assert Subject.of(nn.Linear(2, 2)).packages() == ()
    assert __name__.partition(".")[0] in Subject.of(Outer()).packages()


def test_what_torch_calls_while_a_model_is_built_is_none_of_the_users():
    with CallRecorder() as recorder:
        layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
        layer(torch.ones(1, 3))
    assert [type(item.module).__name__ for item in recorder.recordings] == [type(layer).__name__]


class Wrapped(torch.nn.Module):
    """A part that takes another's place under the same name, as quantizing in place makes it."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        return self.part(x) * 2


def test_a_module_whose_parts_were_exchanged_is_another_one():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))

    def body():
        module(torch.ones(1, 2))
        module[0] = Wrapped(module[0])
        module(torch.ones(1, 2))

    first, second = recorded(body)
    assert type(first.module[0]) is torch.nn.Linear
    assert type(second.module[0]) is Wrapped


def test_what_torch_calls_to_quantize_is_none_of_the_users():
    def body():
        observer = torch.ao.quantization.MinMaxObserver()
        observer(torch.ones(2))
        torch.ao.quantization.FakeQuantize()(torch.ones(2))

    assert recorded(body) == []


def test_a_copy_of_parameters_of_one_memory_has_one_memory_too():
    module = torch.nn.Linear(3, 3)
    module.register_buffer("first", module.weight.data[:1])
    copied = Subject.of(module).copy().module
    copied.first.add_(1)
    assert torch.equal(copied.weight[:1], copied.first)
    assert not torch.equal(copied.weight[:1], module.weight[:1])
    assert isinstance(copied.weight, torch.nn.Parameter)
    assert copied.weight.requires_grad


def test_a_weak_reference_of_a_copy_leads_to_its_own_part():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    module.looks_at = weakref.ref(module[0])
    copied = Subject.of(module).copy().module
    assert copied.looks_at() is copied[0]


def test_a_module_that_is_its_own_copy_is_refused():
    class Single(torch.nn.Linear):
        def __deepcopy__(self, memo):
            return self

    with pytest.raises(SpecError, match="its __deepcopy__ returns the module itself"):
        Subject.of(Single(2, 2)).copy()


class Cache:
    def __init__(self):
        self.seen = [torch.zeros(2)]


class Uncopied(Cache):
    def __deepcopy__(self, memo):
        raise RuntimeError("never")


def test_a_call_has_objects_that_forward_may_write_to_of_its_own():
    cache, uncopied, module = Cache(), Uncopied(), torch.nn.Linear(2, 2)
    call = Call((cache, uncopied, module, len, Cache, torch.float32))
    own, shared, *rest = call.clone().args
    assert own is not cache
    assert own.seen[0] is not cache.seen[0]
    assert shared is uncopied
    assert rest == [module, len, Cache, torch.float32]


def functional(net, scale):
    parameters = {name: value * scale for name, value in net.named_parameters()}
    return torch.func.functional_call(net, parameters, (torch.ones(2, 3),))


TRANSFORMED = {
    "functional_call with computed parameters": lambda net: functional(net, 2.0),
    "grad of parameters": lambda net: torch.func.grad(lambda s: functional(net, s).sum())(
        torch.ones(())
    ),
    "grad": lambda net: torch.func.grad(lambda x: net(x).sum())(torch.ones(2, 3)),
    "vmap": lambda net: torch.func.vmap(net)(torch.ones(2, 3)),
    "jacrev": lambda net: torch.func.jacrev(net)(torch.ones(2, 3)),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_a_call_inside_a_transform_is_left_out_and_one_outside_is_recorded(name):
    net = nn.Linear(3, 2)
    with CallRecorder() as recorder:
        TRANSFORMED[name](net)
        assert recorder.recordings == []
        net(torch.ones(2, 3))
    assert list(recorder.uncopied) == ["Linear"]
    (recording,) = recorder.recordings
    assert recording.problem is None
    torch.testing.assert_close(recording.module.weight, net.weight)


def test_functional_call_with_other_parameters_is_recorded_with_them():
    net, other = nn.Linear(3, 2), nn.Linear(3, 2)
    parameters = dict(other.named_parameters())
    body = lambda: torch.func.functional_call(net, parameters, (torch.ones(2, 3),))  # noqa: E731
    (recording,) = recorded(body)
    assert recording.problem is None
    torch.testing.assert_close(recording.module.weight, other.weight)


# -- a body that calls forward, or another method --------------------------------------------------

X = torch.arange(6.0).reshape(2, 3)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.others = nn.ModuleList([nn.Linear(3, 3), nn.ReLU()])


class Plain(Base):
    def forward(self, x):
        x = self.linear(x)
        for other in self.others:
            x = other(x)
        return x


class Looping(Base):
    def forward(self, x):
        for other in self.others:
            x = other(x)
        return x


class Super(Plain):
    def forward(self, x):
        return super().forward(x) + 1


class Decorated(Base):
    @torch.no_grad()
    def forward(self, x):
        return self.linear(x)


class InPart(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = Plain()

    def forward(self, x):
        return self.part.forward(x) * 2


class Keywords(Base):
    def forward(self, x, /, y, *more, scale=1.0, bias=None, **rest):
        return self.linear(x + y + sum(more) + sum(rest.values())) * scale

    def predict(self, x):
        return self.forward(x, x)


class Assigns(Base):
    def forward(self, x, y=0.0):
        x = x.flatten(1)
        return self.linear(x) + y


class Deletes(Base):
    def forward(self, x):
        kept = x.flatten(1)
        del x
        return self.linear(kept)


class Alias(Base):
    def run(self, x):
        return self.linear(x)

    forward = run


class InLoop(Base):
    def forward(self, x):
        for other in self.others:
            x = other(x)
            if x.sum() > 1e9:
                break
        return x


class WrapsItself(Base):
    def forward(self, x):
        return self.linear(x)


WrapsItself.forward.__wrapped__ = WrapsItself.forward


class Features(Plain):
    """Its forward takes other arguments than its base class's, which another method calls."""

    def forward(self, image, text):
        return super().forward(image) + text

    def features(self, x):
        return super().forward(x)


class Raises(Base):
    def forward(self, x):
        x = self.linear(x)
        if x.shape[0] > 1:
            raise ValueError("only one")
        return x


@pytest.mark.parametrize(
    "cls", [Plain, Looping, Super, Decorated, InPart, Alias, InLoop], ids=lambda cls: cls.__name__
)
def test_the_module_is_recorded_and_not_its_layers(cls):
    net = cls()
    (recording,) = recorded(lambda: (net.forward(X), net.forward(X[:1]), net(X[:, :])))
    assert type(recording.module) is cls
    shapes = [call.args[0].shape for call in recording.calls]
    assert sorted(shapes) == [X[:1].shape, X.shape, X.shape]
    torch.testing.assert_close(recording.calls[0].args[0], X)
    assert recording.problem is None


def test_arguments_are_those_of_the_signature():
    net = Keywords()
    (recording,) = recorded(lambda: net.forward(X, X + 1, X + 2, scale=2.0, z=X + 3))
    call = recording.calls[0]
    assert [tensor[0, 0].item() for tensor in call.args] == [0, 1, 2]
    assert call.kwargs["scale"] == 2.0
    assert call.kwargs["z"][0, 0].item() == 3
    assert list(call.kwargs) in (["scale", "z"], ["z", "scale"])
    torch.testing.assert_close(
        recording.module(*call.args, **call.kwargs), net(*call.args, **call.kwargs)
    )


def test_defaults_are_left_out():
    (recording,) = recorded(lambda: Keywords().forward(X, X))
    assert len(recording.calls[0].args) == 2
    assert recording.calls[0].kwargs == {}


def test_a_forward_that_another_method_calls_is_recorded():
    (recording,) = recorded(lambda: Keywords().predict(X))
    assert type(recording.module) is Keywords
    assert len(recording.calls[0].args) == 2


@pytest.mark.parametrize(
    "cls",
    [Assigns, Deletes],
    ids=lambda cls: cls.__name__,
)
def test_arguments_that_forward_has_assigned_are_not_guessed(cls):
    (recording,) = recorded(lambda: cls().forward(X))
    assert str(recording.problem) == UNKNOWN_ARGUMENTS
    assert recording.calls == []


def test_a_call_that_raised_is_left_out():
    def body():
        net = Raises()
        with pytest.raises(ValueError, match="only one"):
            net.forward(X)
        net.forward(X[:1])

    (recording,) = recorded(body)
    assert [call.args[0].shape for call in recording.calls] == [X[:1].shape]


def test_threads_are_told_apart():
    net, other = Plain(), Looping()

    def body():
        thread = threading.Thread(target=other.forward, args=(X,))
        thread.start()
        net.forward(X)
        thread.join()

    assert sorted(type(item.module).__name__ for item in recorded(body)) == ["Looping", "Plain"]


def test_a_function_of_that_name_is_no_forward_of_a_module():
    def forward(net, x):
        return net(x)

    (recording,) = recorded(lambda: forward(Plain(), X))
    assert type(recording.module) is Plain
    (recording,) = recorded(lambda: forward(nn.Linear(3, 2), X))
    assert type(recording.module) is nn.Linear


class Encodes(Base):
    def encode(self, x):
        return -self.linear(x) if x.mean() > 0 else self.linear(x)

    def twice(self, x):
        return self(self(x))

    def forward(self, x):
        return self.linear(x)


def test_a_layer_that_another_method_calls_is_recorded_with_that_method():
    (recording,) = recorded(lambda: Encodes().encode(X))
    assert type(recording.module) is nn.Linear
    assert recording.caller.name == "Encodes.encode"
    assert "test_capture.py:" in recording.caller.place


class Sized(nn.Module):
    """Counts the features of its first layer by a call of it."""

    def __init__(self, features):
        super().__init__()
        self.layer = nn.Linear(features, 4)
        self.head = nn.Linear(self.layer(torch.zeros(1, features)).shape[1], 2)

    def forward(self, x):
        return self.head(self.layer(x))


BODIES = {
    "a method that calls the module": lambda: Encodes().twice(X),
    "the module": lambda: Encodes()(X),
    "its forward": lambda: Encodes().forward(X),
    "a layer": lambda: nn.Linear(3, 2)(X),
    "a module that calls a layer when it is made": lambda: Sized(3)(X),
}


@pytest.mark.parametrize("name", BODIES)
def test_what_the_test_called_itself_is_inside_nothing(name):
    assert [recording.caller for recording in recorded(BODIES[name])] in ([None], [None, None])


def test_the_forward_of_a_base_class_is_not_that_of_the_module():
    found = recorded(lambda: Features().features(X))
    assert {type(each.module) for each in found} <= {nn.Linear, nn.ReLU}
    assert {each.caller.name for each in found} == {"Features.features"}


def test_decorators_that_lead_to_themselves_raise_nothing_in_the_test():
    assert [type(each.module) for each in recorded(lambda: WrapsItself().forward(X))] == [nn.Linear]


class ByPartial(Base):
    def __init__(self):
        super().__init__()
        self.forward = functools.partial(lambda net, x: net.linear(x) * 2.0, self)


class ByClosure(Base):
    def __init__(self):
        super().__init__()
        self.forward = lambda x: self.linear(x) * 2.0


@pytest.mark.parametrize("cls", [ByPartial, ByClosure])
def test_a_forward_that_hides_its_module_is_named_and_a_call_of_its_module_is_not(cls):
    (recording,) = recorded(lambda: cls().forward(X))
    assert type(recording.module) is nn.Linear
    assert recording.caller.name == f"{cls.__name__}.forward"
    (recording,) = recorded(lambda: cls()(X))
    assert type(recording.module) is cls
    assert recording.caller is None
