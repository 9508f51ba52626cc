"""rewrite.py: code that hands on its conditions does everything else as the code it was made from."""

from __future__ import annotations

import linecache
import sys
import textwrap
import traceback
import types
import warnings
from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_torchexport.explore.callgraph import functions_of
from pytest_torchexport.explore.conditions import MORE, NONE, ONCE
from pytest_torchexport.explore.recorder import ConditionRecorder
from pytest_torchexport.explore.twins import twins_of, with_recorder
from pytest_torchexport.outcomes.subject import Subject

# What every program may use: it logs what is evaluated, and in which order.
PRELUDE = """
LOG = []

def say(value, name=""):
    LOG.append(f"say {name}{value!r}")
    return value

class Truth:
    def __init__(self, truth, name="t"):
        self.truth, self.name = truth, name

    def __bool__(self):
        LOG.append(f"bool {self.name}")
        if isinstance(self.truth, Exception):
            raise self.truth
        return self.truth

    def __repr__(self):
        return f"Truth({self.name})"

class Number:
    def __init__(self, value):
        self.value = value

    def _by(self, sign, other, truth):
        LOG.append(f"{self.value} {sign} {other.value}")
        return Truth(truth, f"{self.value}{sign}{other.value}")

    def __lt__(self, other):
        return self._by("<", other, self.value < other.value)

    def __gt__(self, other):
        return self._by(">", other, self.value > other.value)

    def __le__(self, other):
        return self._by("<=", other, self.value <= other.value)

    def __eq__(self, other):
        return self._by("==", other, self.value == other.value)

    def __ne__(self, other):
        return self._by("!=", other, self.value != other.value)

    __hash__ = None
"""


class Program:
    """A source file, and what its ``f`` does; ``twin`` says whether with the recorder in it."""

    def __init__(self, path, source, twin):
        text = PRELUDE + textwrap.dedent(source)
        path.write_text(text)
        linecache.checkcache(str(path))
        self.names = {"__name__": "program", "__builtins__": __builtins__}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(text, str(path), "exec", dont_inherit=True), self.names)
        self.file, self.twin, self.recorder = str(path), twin, ConditionRecorder()
        functions, _ = functions_of(Subject.of(self.names["f"]), lambda file: file == self.file)
        self.functions = [item for item in functions if item.__code__.co_name not in OURS]
        codes = frozenset(item.__code__ for item in self.functions)
        self.file_twins = twins_of(self.file, codes)
        self.recorder.conditions |= self.file_twins.conditions

    @contextmanager
    def in_place(self):
        """The recorder in the code, as long as the block lasts."""
        before = {function: function.__code__ for function in self.functions}
        for function, code in before.items():
            if self.twin and code in self.file_twins.twins:
                function.__code__ = with_recorder(self.file_twins.twins[code], self.recorder)
        try:
            yield
        finally:
            for function, code in before.items():
                function.__code__ = code

    def does(self, *arguments):
        """What a call gives or raises and where, and everything it evaluates on the way."""
        self.names["LOG"].clear()
        self.recorder.start({})
        with self.in_place(), self.recorder.mode:
            try:
                came = ("returns", repr(self.names["f"](*arguments)))
            except Exception as error:
                frames = traceback.extract_tb(error.__traceback__)
                lines = [frame.lineno for frame in frames if frame.filename == self.file]
                came = ("raises", type(error).__name__, str(error), lines)
        self.recorder.stop()
        return came, list(self.names["LOG"])

    def said(self, *arguments):
        """``(text, outcome)`` of each condition of a call, in order."""
        self.does(*arguments)
        return [
            (self.recorder.conditions[e.key[0]].text, e.outcome) for e in self.recorder.path.events
        ]


OURS = ("say", "__init__", "__bool__", "__repr__", "_by", "__lt__", "__gt__", "__le__", "__eq__")
OURS += ("__ne__",)


def program(tmp_path, source, twin=True):
    return Program(tmp_path / "program.py", source, twin)


INTS = (-3, -1, 0, 1, 2, 3, 7)

PROGRAMS = {
    "if, elif, else": """
        def f(x):
            if say(x) > 3:
                return say("a")
            elif say(x) > 1:
                say("b")
            elif not say(x):
                return "c"
            else:
                say("d")
            return x
    """,
    "short circuits in a test": """
        def f(x):
            if Truth(x > 0, "a") and Truth(x > 1, "b") or not Truth(x > 2, "c"):
                return 1
            while not (Truth(x < 0, "d") or Truth(x > -9, "e")):
                return 2
            return 3
    """,
    "short circuits as values": """
        def f(x):
            y = Truth(x > 0, "a") and Truth(x > 1, "b") and say("last")
            z = say(x) or Truth(False, "c") or say([]) or say("end")
            return y, z, (Truth(x > 2, "d") and 1) or 2, not (say(x) and say(x - 1))
    """,
    "a value is asked for its truth once": """
        class Once:
            def __init__(self, asked):
                self.asked = asked
            def __repr__(self):
                return "once"
            def __bool__(self):
                self.asked += 1
                return self.asked == 1
        def f(x):
            once = Once(x)
            return (once and "first") , once.asked, (once or "second"), once.asked
    """,
    "chained comparisons": """
        def f(x):
            if say(0) < say(x) <= say(2) != say(5):
                return "in"
            if not -2 < x < 9 < say(10):
                return "out"
            return [say(1) < say(x) < say(3), -1 < x < 1 and "zero"]
    """,
    "comparisons that return objects": """
        def f(x):
            n = Number
            if n(x) < n(2):
                say("less")
            if n(0) < n(x) < n(3):
                say("within")
            if n(x) == n(2) or n(x) != n(3) and n(x) <= n(7):
                say("so")
            return n(x) > n(1) and 5
    """,
    "a comparison whose truth raises": """
        def f(x):
            class Array:
                def __eq__(self, other):
                    say("eq")
                    return Truth(ValueError("ambiguous"), "array")
                __hash__ = None
            try:
                if Array() == x:
                    return 1
            except ValueError as error:
                say(str(error))
            if x > 1 and Truth(KeyError(x), "k"):
                return 2
            return 3
    """,
    "a comparison that raises": """
        def f(x):
            try:
                if "a" < x:
                    return 1
            except TypeError as error:
                say(str(error))
            return None < x < say(3)
    """,
    "operands come before operators": """
        def f(x):
            def boom(value):
                say(value)
                raise RuntimeError(str(value))
            if say(x) > (say(1) if x > 0 else boom(2)):
                return say("yes")
            assert say(x) != 2, boom("never built unless it fails")
            return say(x) in [say(1), say(3)] and say("found")
    """,
    "walrus": """
        def f(x):
            if (y := say(x + 1)) > 2 and (z := y * 2) > 7:
                return y, z
            while (y := y - 1) > 0:
                say(y)
            return y, [w for v in range(3) if (w := v * x) > 1], (u := x) and u
    """,
    "nested ternaries": """
        def f(x):
            return say(1) if say(x) > 2 else say(2) if not say(x) else (say(3) if x < -2 else say(4))
    """,
    "comprehensions": """
        def f(x):
            a = [say(i) for i in range(5) if say(i) > x if i % 2 == 0]
            b = {i: j for i in say([1, 2]) for j in say([i, 3]) if i < j or x > 1}
            c = {i if i > x else -i for i in range(3)}
            d = tuple(i for i in range(4) if 0 < i < 3)
            return a, b, sorted(c), d, any(say(i) > x for i in range(4)), all(i < x for i in ())
    """,
    "a generator expression takes its iterator at once": """
        class Log:
            def __iter__(self):
                say("iter")
                return iter([1, 2, 3])
        def f(x):
            made = (i for i in Log() if i > x)
            say("made")
            first = next(made, None)
            if x > 1:
                return first, (i for i in x)
            return first, list(made)
    """,
    "what is iterated may grow meanwhile": """
        def f(x):
            table = {1: 2, 2: 3}
            made = (key for key in table)
            if x > 0:
                table[9] = 9
            items = [1, 2]
            for item in items:
                if len(items) < x:
                    items.append(item)
            for key in {1: 1, 2: 2} if x < 2 else table:
                if x > 2:
                    table[key + 20] = 0
            return items, list(made)
    """,
    "an iterator consumed in part": """
        def f(x):
            numbers = iter(range(10))
            for n in numbers:
                if n > x:
                    break
                if n == 1:
                    continue
                say(n)
            else:
                say("else")
            return list(numbers)
    """,
    "loops with else": """
        def f(x):
            for i in range(3):
                if i == x:
                    break
            else:
                say("no break")
            n = 4
            while n > 0:
                n -= 1
                if n == x:
                    break
            else:
                say("ran out")
            for i in range(3):
                for j in range(i):
                    if i * j > x:
                        break
                else:
                    continue
                say((i, j))
            while True:
                n += 1
                if n > 5:
                    return i, n
    """,
    "what cannot be iterated": """
        def f(x):
            try:
                for i in (x if x < 2 else [x]):
                    say(i)
            except TypeError as error:
                say(str(error))
            return [i for i in x]
    """,
    "an __iter__ that stops": """
        class Stops:
            def __iter__(self):
                raise StopIteration(7)
        def f(x):
            for i in Stops() if x > 0 else ():
                say(i)
            return "end"
    """,
    "a custom iterator": """
        class Steps:
            def __init__(self, n):
                self.n = n
            def __iter__(self):
                say("iter")
                return self
            def __next__(self):
                say("next")
                if self.n <= 0:
                    raise StopIteration
                if self.n == 7:
                    raise ValueError("seven")
                self.n -= 1
                return self.n
        class Old:
            def __getitem__(self, index):
                if index > 2:
                    raise IndexError
                return say(index)
        def f(x):
            steps = Steps(x)
            for n in steps:
                if n == 1:
                    break
            a, *b = Old()
            return steps.n, [i for i in Old() if i != x], a, b
    """,
    "generators": """
        def made(x):
            got = 0
            try:
                while got is not None and got < 5:
                    got = yield (got if got > x else -got)
                for i in range(x):
                    yield from ([i] if i > 1 else ())
            except KeyError:
                yield "caught"
            finally:
                say("closed")
            return "value"
        def whole(x):
            result = yield from made(x)
            if result:
                yield result
        def f(x):
            g = whole(x)
            found = [next(g), g.send(2), g.send(1 if x > 0 else 7)]
            if x > 2:
                found.append(g.throw(KeyError("k")))
            if x < 0:
                g.close()
            return found, list(g), [(yield_ or 1) for yield_ in made(1)]
    """,
    "async": """
        import asyncio
        class Ticks:
            def __init__(self, n):
                self.n = n
            def __aiter__(self):
                return self
            async def __anext__(self):
                if self.n <= 0:
                    raise StopAsyncIteration
                self.n -= 1
                return self.n
        class Held:
            async def __aenter__(self):
                say("enter")
                return 3
            async def __aexit__(self, *of):
                say("exit")
                return of[0] is KeyError
        async def one(n):
            return n if n > 1 else -n
        async def whole(x):
            found = []
            async with Held() as held:
                async for n in Ticks(x):
                    if n > 1 and await one(n) > 2:
                        found.append(n)
                    elif n == 0:
                        raise KeyError(n)
                else:
                    found.append("else")
            return found, [n async for n in Ticks(3) if 0 < n < held], [i for i in range(3) if await one(i) > x]
        def f(x):
            return asyncio.run(whole(x))
    """,
    "match": """
        class Point:
            __match_args__ = ("x", "y")
            def __init__(self, x, y):
                self.x, self.y = x, y
        def f(x):
            subject = [x, [x, 2], {"k": x}, Point(x, 1), "text", None, (1, 2, 3)][abs(x) % 7]
            match subject:
                case int() as n if say(n) > 0:
                    return "positive", n
                case 0 | -1:
                    return "small"
                case [a, b] if a < b < 9:
                    return a, b
                case [first, *rest]:
                    return first, rest
                case {"k": value, **others}:
                    return value, others
                case Point(px, py) if not px:
                    return "origin"
                case Point(x=px):
                    say(px)
            return "fell through"
    """,
    "match with a default": """
        def f(x):
            match say(x):
                case 1:
                    y = "one"
                case other if other > 2:
                    y = other
                case _:
                    y = "rest"
            match x:
                case 7:
                    pass
            match x, y:
                case (0, z) | (z, "one"):
                    return z
                case whole:
                    return whole
    """,
    "match whose last case is an or of everything": """
        def f(x):
            match x:
                case 3:
                    return "three"
                case 1 | _:
                    say("any")
            match x:
                case ((0 | _) as z):
                    return z if x else "zero"
    """,
    "try": """
        def f(x):
            try:
                say("body")
                if x == 0:
                    raise KeyError("k")
                if x == 1:
                    raise ValueError
                if x == 2:
                    return say("returned")
                if x == 3:
                    raise IndexError
            except KeyError as error:
                say(error.args)
            except (ValueError, IndexError):
                if x == 3:
                    raise
                say("value")
            else:
                say("else")
            finally:
                say("finally")
                if x == 7:
                    return "finally wins"
            try:
                say(error)
            except UnboundLocalError:
                say("error is gone")
            for i in range(3):
                try:
                    if i == 1:
                        continue
                    say(i)
                finally:
                    say("f")
    """,
    "exception groups": """
        def f(x):
            try:
                if x > 0:
                    raise ExceptionGroup("g", [KeyError(1), ValueError(x)])
            except* KeyError as group:
                say(len(group.exceptions))
            except* ValueError:
                if x > 2:
                    raise
                say("value")
            return x
    """,
    "exceptions keep cause and context": """
        def f(x):
            try:
                try:
                    raise KeyError("inner")
                except KeyError as error:
                    if x > 0:
                        raise ValueError("outer") from (error if x > 1 else None)
                    raise TypeError("other")
            except Exception as error:
                return type(error.__cause__), type(error.__context__), error.__suppress_context__
    """,
    "with": """
        class Held:
            def __enter__(self):
                return say("enter")
            def __exit__(self, kind, value, trace):
                say(kind)
                return kind is KeyError
        def f(x):
            with Held() as held, Held():
                if x > 1:
                    raise KeyError(x)
                if x < 0:
                    raise ValueError(x)
                if x == 1:
                    return held
            return "after"
    """,
    "decorators": """
        import functools
        def twice(function):
            @functools.wraps(function)
            def inner(x, *more):
                if x > 1:
                    return function(x, *more), function(-x, *more)
                return function(x, *more)
            return inner
        def by(n):
            def decorate(function):
                return lambda x: function(x, n) if x != n else "n"
            return decorate
        @by(2)
        @twice
        def f(x, n):
            if n < x:
                return "less"
            return x
    """,
    "closures": """
        def outer(limit):
            count = 0
            def inner(x):
                nonlocal count
                if x > limit:
                    count += 1
                    return count
                return -count
            return inner
        GLOBAL = 0
        inner = outer(1)
        def f(x):
            global GLOBAL
            GLOBAL += 1 if x > 0 else 10
            own = outer(x)
            return inner(x), GLOBAL, own(3), own(-5), own(4)
    """,
    "classes": """
        class Base:
            limit = 2
            def go(self, x):
                return "base" if x > self.limit else "low"
            @property
            def size(self):
                return self.__private if self.__private > 1 else -1
            @size.setter
            def size(self, value):
                self.__private = value if value else 5
            @staticmethod
            def still(x):
                return x if x > 1 else 0
            @classmethod
            def made(cls, x):
                self = cls()
                self.size = x
                return self if x > -2 else None
            def __hidden(self, x):
                return x > 0 and "hidden"
            def show(self, x):
                return self.__hidden(x) or "shown"
        class Derived(Base):
            limit = 1
            def go(self, x):
                if x == 3:
                    return super(Derived, self).go(x), __class__.__name__
                return super().go(x) + [super().go(i) if i else "z" for i in range(1)][0] if x < 3 else 1
            def __getattr__(self, name):
                if name == "missing":
                    return 0
                raise AttributeError(name)
            def __len__(self):
                return 0 if self.missing or self.size < 3 else 1
            def __contains__(self, x):
                return Truth(x > 2, "contains")
        def f(x):
            made = Derived.made(x)
            if made is None:
                return "none"
            try:
                found = made.go(x)
            except TypeError as error:
                found = str(error)
            if x in made or not made:
                say("in")
            return found, made.size, made.still(x), made.show(x), bool(made)
    """,
    "self is another": """
        class A:
            def take(self, x):
                if x > 0:
                    self = x
                return self if x > 0 else 1
            def drop(self, x):
                if x:
                    del self
                return x if x > 1 else -1
            def caught(self, x):
                try:
                    if x > 1:
                        raise KeyError(x)
                except KeyError as self:
                    say(self.args)
                return 2 if x > 2 else 1
            def matched(self, x):
                match x:
                    case 1:
                        pass
                    case self:
                        pass
                return self if x > 1 else 0
            def imported(self, x):
                if x:
                    import math as self
                return self.pi if x else x
            def none(*args):
                return 1 if args[1] > 1 else 2
            def inner(self, x):
                def self(y):
                    return y if y > 1 else 0
                return self(x) if x else x
        def f(x):
            a = A()
            parts = a.take, a.drop, a.caught, a.matched, a.imported, a.none, a.inner
            return [part(x) for part in parts]
    """,
    "lambdas on a line": """
        a, b = (lambda x: x if x > 1 else 0), (lambda x: x if x > 2 else 1)
        c, d = lambda x, y=1: x > y and x, lambda x, y=2: x > y and x
        def f(x):
            g = lambda y: (lambda z: z if z > y else y)(x)
            return a(x), b(x), c(x), d(x), g(2), sorted([3, 1, 2], key=lambda i: -i if x > 0 else i)
    """,
    "default arguments": """
        def f(x, y=say(1) if True else 2, *args, k=(lambda v: v if v > 1 else 9)(3), **more):
            def inner(z=x if x > 0 else 0, *, w=say(x) and 4):
                return z if w else -1
            return inner(), y if x > y else k
    """,
    "recursion": """
        def f(x):
            if x <= 0:
                return 0
            return 1 + f(x - 1) if x % 2 else 2 + f(x - 2)
    """,
    "membership in odd containers": """
        class Box:
            def __contains__(self, item):
                say(item)
                if item == 7:
                    raise LookupError(item)
                return [] if item > 1 else "yes"
        class Walked:
            def __iter__(self):
                for i in range(9):
                    yield say(i)
        def f(x):
            if x in Box():
                say("in")
            if x not in Walked():
                say("not in")
            if x is not None and x is x and (x is True) is False:
                return x in "a" if x > 2 else x in range(3)
            return x in {1: 2}
    """,
    "asserts": """
        def f(x):
            assert x > -2
            assert x != 2, f"bad {x if x > 1 else 0}"
            assert say(x) < 3 or say(x) == 7, say("message")
            assert Truth(True, "t")
            return x
    """,
    "numbers like numpy's": """
        import numpy
        def f(x):
            array = numpy.array([x, 1])
            if array[0] > 1 and array.sum() < 9:
                say(type(array[0]).__name__)
            if array.all() if x else array[:1]:
                say("all")
            if x < 3:
                return bool(array[:1]) or 5
            if array > 1:
                return "ambiguous"
    """,
    "del, augmented and starred": """
        def f(x):
            table = {i: i * x for i in range(4) if i != x}
            del table[0 if x else 1]
            table[1 if x < 3 else 2] = 5
            a, *b = (table.get(i) or i for i in range(4))
            table[2 if x > 1 else 3] = table.get(3, 0) + (b[0] if b[0] > 1 else 4)
            return a, b, table, f"{x if x > 1 else 'low'!r:>{4 if x else 6}} {x > 1 and x}"
    """,
    "f-strings over lines": '''
        def f(x):
            return f"""
              {x if x > 1
                else 0} and {
                "a" if 0 < x < 3 else "b"}
            """
    ''',
    "a class inside a method": """
        class Maker:
            def make(self, x):
                class Inner:
                    size = 3 if x > 1 else 2
                    if 0 < x < 3:
                        kind = "near"
                    else:
                        kind = "far"
                    picked = [i for i in range(4) if 0 < i < 3]
                    both = x and size
                    def go(self, y):
                        return self.size if 0 < y < 2 else self.kind
                return Inner
        def f(x):
            made = Maker().make(x)
            names = sorted(name for name in vars(made) if not name.startswith("__"))
            return names, made().go(x), made.picked, made.both
    """,
    "what is local stays what it was": """
        def f(x):
            y = x > 0 and x
            if 0 < x < 3:
                z = 1
            return sorted(locals()), [sorted(vars()) for i in range(1) if x < i < 9]
    """,
    "names of the module": """
        import sys
        def f(x):
            if 0 < x < 2 or x > 2:
                exec("made_here = 1" if x else "pass", globals())
            return sorted(name for name in globals() if "torch" in name.lower()), sys._getframe().f_code.co_name
    """,
    "return annotations are strings or not": """
        def f(x: "int" = 3, y: int if True else str = 1):
            z: int = x if x > y else y
            w: str
            return z, f.__annotations__
    """,
    "long chains": "def f(x):\n    if x == 100:\n        return 0\n"
    + "".join(f"    elif x == {i}:\n        return {i * 7}\n" for i in range(40))
    + "    return None\n",
    "semicolons and one-liners": """
        def f(x):
            if x > 2: say(1); return 2
            for i in range(2): say(i) if i else None
            while x < 0: x += 1; say(x)
            else: say("e")
            return x; say("never")
    """,
    "tensors": """
        import torch
        def f(x):
            t = torch.full((2, 2), float(x))
            if t.sum() > 3 and not (t < 0).any():
                say("big")
            if torch.equal(t, t.t()) and torch.allclose(t, t + 1e-9):
                say("equal")
            for row in t:
                if -1 < row[0] < 2:
                    say(row.tolist())
            if t[0, 0].item() == 7:
                if t:
                    return "ambiguous"
            return (t.sum() > 0 and t.max()) or t.min()
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_rewritten_program_does_what_it_did(tmp_path, name):
    plain = program(tmp_path, PROGRAMS[name], twin=False)
    twin = program(tmp_path, PROGRAMS[name])
    assert twin.file_twins.twins
    assert not twin.file_twins.unread
    for value in INTS:
        assert twin.does(value) == plain.does(value), value
        assert twin.recorder.path.events, value


# -- programs at random --------------------------------------------------------------------------------------

ATOMS = st.integers(0, 4).map(lambda i: f"Truth(x >> {i} & 1 > 0, 'abcde'[{i}])")
NUMBERS = st.sampled_from(["x", "say(x % 3)", "Number(x % 4).value", "1", "say(2)", "-x"])


def _compared(number):
    sign = st.sampled_from(["<", "<=", "==", "!=", ">", "is not"])
    pair = st.tuples(sign, number).map(" ".join)
    return st.builds(
        lambda first, more: f"{first} {' '.join(more)}",
        number,
        st.lists(pair, min_size=1, max_size=3),
    )


def _grown(inner):
    part = inner.map("({})".format)
    joined = st.builds(
        lambda sign, parts: f" {sign} ".join(parts),
        st.sampled_from(["and", "or"]),
        st.lists(part, min_size=2, max_size=3),
    )
    return st.one_of(
        joined,
        part.map("not {}".format),
        st.builds("{} if {} else {}".format, part, part, part),
        st.builds("(w := {}) and w".format, part),
        st.builds("[i for i in range(3) if {}][:1]".format, part),
        st.builds("any(({}) for i in range(2))".format, part),
        st.builds("(lambda x: {})(x + 1)".format, part),
        st.builds("say({}, 's')".format, part),
    )


EXPRESSIONS = st.recursive(st.one_of(ATOMS, _compared(NUMBERS), NUMBERS), _grown, max_leaves=8)


def _block(parts):
    return [f"    {line}" for part in parts for line in part] or ["    pass"]


def _statements(inner):
    block = st.lists(inner, min_size=1, max_size=2).map(_block)
    test = EXPRESSIONS
    return st.one_of(
        st.builds(lambda t, a, b: [f"if {t}:", *a, "else:", *b], test, block, block),
        st.builds(lambda t, a: [f"while rounds and ({t}):", "    rounds -= 1", *a], test, block),
        st.builds(
            lambda t, a, b: [
                "for k in range(n % 4):",
                *a,
                f"    if {t}:",
                "        break",
                "else:",
                *b,
            ],
            test,
            block,
            block,
        ),
        st.builds(
            lambda t, a, b: [
                "try:",
                *a,
                f"    assert {t}",
                "except AssertionError:",
                *b,
                "finally:",
                "    say('f')",
            ],
            test,
            block,
            block,
        ),
        st.builds(
            lambda t, a, b: [
                "match n:",
                f"    case int(m) if {t}:",
                *map("    {}".format, a),
                "    case 2 | 3:",
                *map("    {}".format, b),
            ],
            test,
            block,
            block,
        ),
    )


SIMPLE = st.one_of(
    EXPRESSIONS.map(lambda text: [f"say({text}, 'v')"]),
    EXPRESSIONS.map(lambda text: [f"if {text}:", "    return 'early'"]),
    EXPRESSIONS.map(lambda text: [f"n = ({text}) and 2 or 1"]),
)
BODIES = st.lists(st.recursive(SIMPLE, _statements, max_leaves=4), min_size=1, max_size=3)


def squeezed(log):
    """The log, a truth asked for again at once left out: in ``not (a and b)`` that is the compiler's business."""
    return [
        line
        for line, before in zip(log, ["", *log], strict=False)
        if line != before or line[:4] != "bool"
    ]


@settings(
    max_examples=150,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(BODIES)
def test_a_random_program_does_what_it_did(tmp_path, body):
    source = "\n".join(["def f(x):", "    n, rounds = 2, 6", *_block(body), "    return n"])
    plain, twin = program(tmp_path, source, twin=False), program(tmp_path, source)
    assert not twin.file_twins.unread
    for value in (0, 1, 5, 10, 22, 31):
        (came, told), (expected, log) = twin.does(value), plain.does(value)
        assert (came, squeezed(told)) == (expected, squeezed(log)), (source, value)


# -- what is told ----------------------------------------------------------------------------------------------


TOLD = {
    "both parts of an and": ("if x > 1 and x < 5: pass", 3, [("x > 1", True), ("x < 5", True)]),
    "no part that is not asked": ("if x > 1 and x < 5: pass", 0, [("x > 1", False)]),
    "what stands after not": ("if not x > 1: pass", 3, [("x > 1", True)]),
    "each link of a chain": ("if 0 < x < 5: pass", 7, [("0 < x < 5", True), ("0 < x < 5", False)]),
    "a ternary": ("y = 1 if x else 2", 0, [("x", False)]),
    "operands as values": ("y = x and [] or 5", 2, [("x", True), ("[]", False)]),
    "an assert": ("assert x > 0", 1, [("x > 0", True)]),
    "rounds of a while": ("while x > 0: x -= 1", 1, [("x > 0", True), ("x > 0", False)]),
    "rounds of an endless while": ("while True:\n        break", 1, [("True", True)]),
    "rounds of a for": ("for i in range(x): pass", 1, [("range(x)", True), ("range(x)", False)]),
    "conditions of a comprehension": (
        "[i for i in range(1) if i > x]",
        1,
        [("range(1)", True), ("i > x", False), ("range(1)", False)],
    ),
    "a handler that was come to": (
        "try: 1 / x\n    except ZeroDivisionError: pass",
        0,
        [("except ZeroDivisionError: pass", True)],
    ),
    "a handler that was not": (
        "try: 1 / x\n    except ZeroDivisionError: pass",
        1,
        [("except ZeroDivisionError: pass", False)],
    ),
    "cases up to the one that fits": (
        "match x:\n        case 1: pass\n        case 2: pass\n        case 3: pass",
        2,
        [("1", False), ("2", True)],
    ),
    "no case that fits": (
        "match x:\n        case 1: pass\n        case 2: pass",
        5,
        [("1", False), ("2", False)],
    ),
    "a lambda": ("y = (lambda z: z > 1 or z)(x)", 0, [("z > 1", False)]),
    "nothing of constants": ("if 1: pass\n    y = 2 if __debug__ else x", 1, [("__debug__", True)]),
}


@pytest.mark.parametrize("name", TOLD)
def test_conditions_are_told_in_order(tmp_path, name):
    body, value, told = TOLD[name]
    assert program(tmp_path, f"def f(x):\n    {body}\n").said(value) == told


def test_a_condition_says_where_it_is(tmp_path):
    found = program(
        tmp_path,
        """
        class Net:
            def forward(self, x):
                return (1 if x
                        > 2 else 0)
        def f(x):
            return Net().forward(x)
        """,
    )
    (condition,) = found.file_twins.conditions.values()
    lines = (tmp_path / "program.py").read_text().splitlines()
    assert lines[condition.line - 1] == "        return (1 if x"
    assert (condition.first_line, condition.end_line) == (condition.line, condition.line + 1)
    assert (condition.kind, condition.text, condition.statement) == (
        "expression",
        "x > 2",
        "return (1 if x",
    )
    assert (condition.function, condition.file) == ("Net.forward", str(tmp_path / "program.py"))
    assert condition.outcomes == (True, False)


def test_a_form_feed_ends_no_line(tmp_path):
    found = program(tmp_path, "\fX = 1\n\f\ndef f(x):\n    if x: return 'ä\u2028', 1 if X else 2\n")
    assert [(s.text, s.statement) for s in found.file_twins.conditions.values()] == [
        (text, "if x: return 'ä\u2028', 1 if X else 2") for text in ("x", "X")
    ]


def test_a_loop_counts_its_rounds(tmp_path):
    found = program(tmp_path, "def f(x):\n    for i in range(x):\n        pass\n")
    (number,) = found.file_twins.conditions
    assert found.file_twins.conditions[number].outcomes == (NONE, ONCE, MORE)
    for rounds, outcome in ((0, NONE), (1, ONCE), (2, MORE), (5, MORE)):
        found.does(rounds)
        assert found.recorder.path.taken() == {((number, ""), outcome): 1}


@pytest.mark.parametrize(
    ("body", "outcomes"),
    [
        ("if x: raise ValueError", (False,)),
        ("if not x: raise ValueError", (True,)),
        ("if x:\n        pass\n    else:\n        y = 1\n        raise ValueError", (True,)),
        ("assert x", (True,)),
        ("assert not x", (False,)),
        ("try: pass\n    except ValueError: raise", (False,)),
        ("if x: pass", (True, False)),
        ("if x:\n        if y: raise ValueError\n        return", (True, False)),
    ],
)
def test_an_outcome_after_which_the_code_only_raises_is_no_aim(tmp_path, body, outcomes):
    found = program(tmp_path, f"def f(x, y=0):\n    {body}\n")
    assert next(iter(found.file_twins.conditions.values())).outcomes == outcomes


@pytest.mark.parametrize(
    ("test", "outcomes"),
    [
        ("a and b", [(True, False), (False,)]),
        ("a or b", [(False,), (False,)]),
        ("not (a and b)", [(True,), (True,)]),
    ],
)
def test_which_part_of_a_test_raises_is_known(tmp_path, test, outcomes):
    found = program(tmp_path, f"def f(a, b=1):\n    if {test}: raise ValueError\n")
    assert [condition.outcomes for condition in found.file_twins.conditions.values()] == outcomes


# -- what is not rewritten -----------------------------------------------------------------------------------


def test_code_without_conditions_has_no_twin(tmp_path):
    found = program(tmp_path, "def f(x):\n    y = [x, x + 1]\n    return not y, x is y, x < 3\n")
    assert (dict(found.file_twins.twins), found.file_twins.unread) == ({}, ())


def test_only_what_is_asked_for_is_rewritten(tmp_path):
    found = program(
        tmp_path,
        """
        def other(x):
            return 1 if x else 2
        if len("ab") > 1:
            def f(x):
                return 3 if x else 4
        """,
    )
    assert {condition.function for condition in found.file_twins.conditions.values()} == {"f"}


CHANGES = {
    "another number": ("x > 3", "x > 4"),
    "another sign": ("x > 3", "x < 3"),
    "a number of another type": ("x > 1", "x > True"),
    "another line": ("def f", "\ndef f"),
    "a name more": ("x > 3", "x > x.y"),
    "another inner number": ("[lambda: 5]", "[lambda: 6]"),
    "no Python any more": ("x > 3", "x >"),
    "an empty file": (None, ""),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_changed_since_it_was_imported_is_not_trusted(tmp_path, name):
    before, after = CHANGES[name]
    number = "1" if "1" in str(before) else "3"
    text = f"def f(x):\n    return 1 if x > {number} else [lambda: 5]\n"
    path = tmp_path / "program.py"
    path.write_text(text)
    names = {}
    exec(compile(text, str(path), "exec"), names)
    code = names["f"].__code__
    assert twins_of(str(path), frozenset([code])).twins.keys() == {code}
    path.write_text(after if before is None else text.replace(before, after) + "# changed\n")
    found = twins_of(str(path), frozenset([code]))
    assert (dict(found.twins), found.unread) == ({}, (code,))


def test_code_without_a_file_is_unread_where_it_decides_something():
    names = {}
    exec("def f(x):\n    return 1 if x else 2\ndef g(x):\n    return x\n", names)
    found = twins_of("<string>", frozenset([names["f"].__code__, names["g"].__code__]))
    assert found.unread == (names["f"].__code__,)
    assert not found.conditions


def test_source_nested_too_deeply_is_unread(tmp_path):
    source = "def f(x):\n    if x == -1:\n        return 0\n" + "".join(
        f"    elif x == {i}:\n        return {i}\n" for i in range(400)
    )
    path = tmp_path / "program.py"
    path.write_text(source)
    names = {}
    exec(compile(source, str(path), "exec"), names)
    found = twins_of(str(path), frozenset([names["f"].__code__]))
    assert found.twins or found.unread == (names["f"].__code__,)


def test_what_python_warns_of_in_the_users_source_is_not_said_again(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = program(tmp_path, "def f(x):\n    return '\\d' if x is 3 else 0\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = tmp_path / "other.py"
        path.write_text((tmp_path / "program.py").read_text())
        codes = frozenset(item.__code__ for item in found.functions)
        assert twins_of(str(path), codes).twins


def test_lambdas_on_a_line_are_told_apart_also_after_many_calls(tmp_path):
    found = program(
        tmp_path,
        """
        pair = (lambda x: x + 1 if x > 1 else 0), (lambda x: x + 1 if x > 2 else 0)
        def f(x):
            return [part(x) for part in pair]
        """,
        twin=False,
    )
    for _ in range(300):
        assert found.names["f"](2) == [3, 0]
    again = twins_of(found.file, frozenset(part.__code__ for part in found.names["pair"]))
    assert len(again.twins) == 2
    assert not again.unread


def test_asserts_that_pytest_rewrote_are_read_all_the_same(pytester):
    pytester.makepyfile(
        test_inner="""
        from pytest_torchexport.explore.twins import twins_of

        def checked(x):
            assert x != 3, "three"
            for i in range(x):
                assert i < 2 or x in (5, 6), f"{i}"
            return 1 if x > 4 else 0

        def test_here():
            found = twins_of(__file__, frozenset([checked.__code__]))
            assert checked.__code__ in found.twins
            assert "@py_builtins" in checked.__code__.co_names
            assert [condition.text for condition in found.conditions.values()] == [
                "x != 3", "range(x)", "i < 2", "x in (5, 6)", "x > 4"]
        """
    )
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


# -- what others see -------------------------------------------------------------------------------------------


def test_a_tracer_sees_the_same_lines(tmp_path):
    source = """
        def f(x):
            found = []
            for i in range(3):
                if 0 < i < x and i:
                    found.append(
                        i if x > 1
                        else 0)
                try:
                    found[5]
                except IndexError:
                    pass
            match x:
                case 1:
                    return 1
                case _:
                    return found or 2
    """

    def lines(found, value):
        seen = set()

        def tracer(frame, event, arg):
            if frame.f_code.co_filename != found.file:
                return None
            if event == "line":
                seen.add(frame.f_lineno)
            return tracer

        found.recorder.start({})
        before = sys.gettrace()
        with found.in_place():
            sys.settrace(tracer)
            try:
                found.names["f"](value)
                assert sys.gettrace() is tracer
            finally:
                sys.settrace(before)
        return seen

    plain, twin = program(tmp_path, source, twin=False), program(tmp_path, source)
    for value in (0, 1, 2, 3):
        assert lines(twin, value) == lines(plain, value)


def test_a_function_keeps_what_can_be_asked_of_its_code(tmp_path):
    found = program(
        tmp_path,
        """
        def f(x, /, y=1, *args, k: int = 2, **more):
            "What it does."
            return g() if x > y else k
        def g():
            return (1 if f else 2)
        """,
    )
    for code, twin in found.file_twins.twins.items():
        for name in ("argcount", "posonlyargcount", "kwonlyargcount", "flags", "name", "qualname"):
            assert getattr(code, f"co_{name}") == getattr(twin, f"co_{name}")
        for name in ("varnames", "freevars", "filename", "firstlineno", "cellvars"):
            assert getattr(code, f"co_{name}") == getattr(twin, f"co_{name}")


def test_the_recorder_is_put_into_inner_functions_too(tmp_path):
    found = program(
        tmp_path,
        "def f(x):\n    return [(lambda z: z or 1)(y) for y in range(2) if y > x]\n",
    )
    (twin,) = found.file_twins.twins.values()

    def constants(code):
        for item in code.co_consts:
            yield from constants(item) if isinstance(item, types.CodeType) else [item]

    placed_in = list(constants(with_recorder(twin, found.recorder)))
    assert not any(isinstance(item, str) and "torchexport" in item for item in placed_in)
    assert sum(item is found.recorder for item in placed_in) == 3
    assert not any(item is found.recorder for item in constants(twin))


def test_nothing_is_told_when_nobody_listens(tmp_path):
    found = program(tmp_path, PROGRAMS["tensors"])
    found.does(2)
    told = len(found.recorder.path.events)
    with found.in_place():
        found.names["f"](3)
    assert len(found.recorder.path.events) == told > 0
    assert torch.is_grad_enabled()
