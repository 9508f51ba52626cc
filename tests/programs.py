"""Source files that are rewritten, and what runs them with and without the recorder."""

from __future__ import annotations

import linecache
import textwrap
import traceback
import warnings
from contextlib import contextmanager

from pytest_torchexport.explore.recorder import ConditionRecorder
from pytest_torchexport.explore.twins import functions_of, twins_of, with_recorder
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
        """Return a call's result or exception, its place, and all that it evaluates on the way."""
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
    "numbers that decide without a test": """
        def f(x):
            y = say(max(say(x), say(2)))
            y += min(say(y), say(x)) + 3 * (say(x) > 1) + (say(x) in (1, say(2)))
            return y, {1: "a", say(3): "b"}.get(say(x), say("c")), {}.get(*[x, 1]), max(x, key=say)
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
            if n(x) < n(2) and n(0) < n(x) < n(3):
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
    "what is iterated may grow or stop meanwhile": """
        class Stops:
            def __iter__(self):
                raise StopIteration(7)
        def f(x):
            for i in Stops() if x == 7 else ():
                say(i)
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
    "generators": """
        def made(x):
            got = 0
            try:
                while got is not None and got < 5:
                    got = yield (got if got > x else -got)
                yield from (i for i in range(x) if i > 1)
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
            return found, list(g)
    """,
    "async": """
        import asyncio
        class Held:
            async def __aenter__(self):
                return 3
            async def __aexit__(self, *of):
                return of[0] is KeyError
        async def ticks(n):
            while n > 0:
                n -= 1
                yield n
        async def one(n):
            return n if n > 1 else -n
        async def whole(x):
            found = []
            async with Held() as held:
                async for n in ticks(x):
                    if n > 1 and await one(n) > 2:
                        found.append(n)
                    elif n == 0:
                        raise KeyError(n)
                else:
                    found.append("else")
            return found, [n async for n in ticks(3) if 0 < n < held], [i for i in range(3) if await one(i) > x]
        def f(x):
            return asyncio.run(whole(x))
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
    "try": """
        def f(x):
            try:
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
                    raise TypeError from None
            else:
                say("else")
            finally:
                say("finally")
                if x == 7:
                    return "finally wins"
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
    "classes": """
        import functools
        def twice(function):
            count = 0
            @functools.wraps(function)
            def inner(self, x):
                nonlocal count
                count += 1 if x > 0 else 10
                return count, (function(self, x), function(self, -x)) if x > 1 else function(self, x)
            return inner
        class Base:
            limit = 2
            @twice
            def go(self, x):
                return "base" if x > self.limit else "low"
            @property
            def size(self):
                return self.__private if self.__private > 1 else -1
            @size.setter
            def size(self, value):
                self.__private = value if value else 5
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
                return [super().go(x) if x < 3 else 1]
            def __len__(self):
                return 0 if self.size < 3 else 1
            def __contains__(self, x):
                return Truth(x > 2, "contains")
        def f(x):
            made = Derived.made(x)
            if made is None:
                return "none"
            if x in made or not made:
                say("in")
            try:
                return made.go(x), made.size, made.show(x)
            except TypeError as error:
                return str(error)
    """,
}
