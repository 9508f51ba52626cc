"""The fixture: check, export, using, target, device."""

from __future__ import annotations

from pytest_torchexport import targets

FIXTURE = """
import pytest_torchexport
from pytest_torchexport import ExportRefused, OutputsDiffer, SpecError, Verdict

@pytest.mark.torchexport('mirror')
def test_check_returns_a_verdict(torchexport, x):
    verdict = torchexport.check(Net(), x)
    assert isinstance(verdict, Verdict)
    assert verdict.status == 'passed'
    assert (verdict.target, verdict.device) == (torchexport.target, torchexport.device)
    assert torchexport.target == 'mirror'
    assert torchexport.device == 'cpu'
    assert verdict.subject == 'Net'
    assert verdict.calls['example'] == 1
    assert verdict.calls['drawn'] == 5
    assert set(verdict.reached['batch']) == {1, 2, 3, 4}

@pytest.mark.torchexport('liar')
def test_check_raises_its_failure(torchexport, x):
    with pytest.raises(OutputsDiffer, match='outputs differ from eager') as caught:
        torchexport.check(Net(), x)
    (verdict,) = caught.value.verdicts
    assert verdict.shrunk
    assert verdict.call.startswith('x=float32[1, 3] zeros')
    assert [(s.dim, s.failing) for s in verdict.diagnosis.sizes] == [('batch', (1,))]

@pytest.mark.torchexport('trace')
def test_export_gives_the_artifact(torchexport, x):
    net = Net()
    artifact = torchexport.export(net, x)
    assert torch.equal(artifact(x), net(x))
    assert artifact.program is not None

@pytest.mark.torchexport('refuser')
def test_export_raises_a_refusal(torchexport, x):
    with pytest.raises(ExportRefused, match='frobnicate'):
        torchexport.export(Net(), x)

@pytest.mark.torchexport('liar', dims={'batch': (2, 4)})
def test_options_come_from_the_marker(torchexport, x):
    assert torchexport.check(Net(), x).reached == {'batch': (2, 3, 4)}

@pytest.mark.torchexport('liar', dims={'batch': (1, 4)})
def test_using_changes_them(torchexport, x):
    narrow = torchexport.using(dims={'batch': (2, 3)}, max_examples=3)
    assert narrow.target == torchexport.target
    assert set(narrow.check(Net(), x).reached['batch']) == {2, 3}
    assert narrow.using(max_examples=4).check(Net(), x).reached['batch'] == (2, 3)
    with pytest.raises(OutputsDiffer):
        torchexport.check(Net(), x)

@pytest.mark.torchexport('mirror')
def test_using_refuses_what_it_cannot_change(torchexport):
    with pytest.raises(SpecError, match="unknown argument 'target'"):
        torchexport.using(target='onnx')
    with pytest.raises(SpecError, match="Did you mean 'dims'"):
        torchexport.using(dim={})
    for late in ({'devices': 'cuda'}, {'xfail': {'mirror': OutputsDiffer}}):
        with pytest.raises(SpecError, match=next(iter(late))):
            torchexport.using(**late)

def add(x, y):
    return x + y

@pytest.mark.torchexport('mirror')
def test_functions_and_keywords(torchexport, x):
    assert torchexport.check(add, x, y=x * 2).subject == 'add'

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))
    def forward(self, x): return x
    def encode(self, x): return x @ self.weight

@pytest.mark.torchexport('mirror')
def test_bound_methods(torchexport, x):
    assert 'encode' in torchexport.check(Pair().encode, x).subject

@pytest.mark.torchexport('mirror')
def test_what_is_no_subject(torchexport, x):
    with pytest.raises(SpecError, match='cannot be checked; legal: an nn.Module'):
        torchexport.check(3, x)
    with pytest.raises(SpecError, match='the call does not fit forward'):
        torchexport.check(Net(), x, x, x)

@pytest.mark.torchexport('mirror')
def test_the_users_module_and_tensors_are_left_alone(torchexport, x):
    net, before = Net().train(), x.clone()
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    torchexport.check(net, x)
    assert net.training
    assert torch.equal(x, before)
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())

@pytest.mark.torchexport('mirror')
def test_modes(torchexport, x):
    assert torchexport.using(mode='train').check(Net().train(), x).status == 'passed'
    assert 'put into eval mode for the check' in torchexport.check(Net().train(), x).notes

def test_without_a_marker_the_default_targets_are_used(torchexport, x):
    assert torchexport.check(Net(), x).target == torchexport.target
"""


DEFAULTS = ("trace", "script", "export", "onnx")


def test_the_fixture_does_what_it_says(suite, run):
    suite(FIXTURE)
    result = run("-v", "-x", "--maxfail=99")
    # Without the extra "onnx" (tox -e no-onnx) that target is unavailable.
    missing = [name for name in DEFAULTS if targets.get(name).unavailable("cpu")]
    result.stdout.fnmatch_lines(
        [
            f"*test_without_a_marker_the_default_targets_are_used[[]{name}-cpu] "
            f"{'SKIPPED' if name in missing else 'PASSED'}*"
            for name in DEFAULTS
        ]
    )
    result.assert_outcomes(passed=16 - len(missing), skipped=len(missing))


SEVERAL = """
from pytest_torchexport import OutputsDiffer

@pytest.mark.torchexport('raiser', 'mirror')
def test_several(torchexport, x):
    torchexport.check(Net(), x)
    torchexport.check(Net(), x * 2)

class Wide(nn.Module):
    def forward(self, x): return x.repeat(1, 2)

@pytest.mark.torchexport('liar')
def test_captured(x):
    Net()(x)
    Wide()(x)
    Wide()(x[:1])

@pytest.mark.torchexport('trace')
def test_file(torchexport, x, tmp_path):
    net, path = Net(), tmp_path / 'net.pt'
    torch.jit.trace(net, x).save(path)
    assert torchexport.check_artifact(path, net, x).status == 'passed'
    with pytest.raises(OutputsDiffer):
        torchexport.check_artifact(lambda x: net(x) + 1, net, x)
"""


def test_an_item_may_check_several_subjects_and_artifacts_of_others(suite, run, text_of):
    suite(SEVERAL)
    result = run()
    result.assert_outcomes(passed=2, failed=2)
    text = text_of(result)
    assert "subject  Net on liar-cpu: " in text
    assert "subject  Wide (all 2) on liar-cpu: " in text


LOOPS = """
from pytest_torchexport import OutputsDiffer, SpecError

class Step(nn.Module):
    def forward(self, x, steps):
        steps = 0.5 * steps + x
        return steps * 2, steps

@pytest.mark.torchexport('mirror')
def test_loop(torchexport):
    x = torch.ones(2, 3)
    given = {'carry': {'output[1]': 'steps'}, 'steps': 4}
    verdict = torchexport.check_loop(Step(), x, x, **given)
    assert (verdict.loop.steps, verdict.calls['free-running']) == (4, 4)
    wrong = lambda x, steps: Step()(x + 0.1, steps)
    with pytest.raises(OutputsDiffer, match='step 1 of 4: output'):
        torchexport.check_loop(Step(), x, x, artifact=wrong, **given)
    with pytest.raises(SpecError, match='steps= says how the loop goes, and the step has an arg'):
        torchexport.check_loop(Step(), x, **given)

class Cache:
    def __init__(self):
        self.kept = []

class Decoder(nn.Module):
    def forward(self, x, cache):
        cache.kept.append(x)
        return torch.stack(cache.kept).mean(0)

class Settings:
    def __init__(self):
        self.scale = torch.ones(3)

class Scaled(nn.Module):
    def forward(self, x, settings):
        return x * settings.scale

@pytest.mark.torchexport('mirror')
@pytest.mark.parametrize('shared', [True, False])
def test_body(shared):
    cache, settings, net = Cache(), Settings(), (Decoder() if shared else Scaled())
    for _ in range(2):
        net(torch.ones(2, 3), cache if shared else settings)
"""


def test_a_loop_is_checked_and_a_body_whose_calls_share_a_cache_is_told_to_do_so(suite, run):
    suite(LOOPS)
    result = run("-rs")
    result.assert_outcomes(passed=2, skipped=1)
    result.stdout.fnmatch_lines(
        ["SKIPPED*the calls are a loop: each changes a Cache that the next one gets*check_loop*"]
    )
