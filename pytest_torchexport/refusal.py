"""An exporter's refusal in a few lines: what torch said, without its logs, and where in the user's code.

torch wraps its reasons in pages of advice for its own developers; the reader of a report wants two lines.
"""

from __future__ import annotations

import re

from pytest_torchexport.observe import short_path, user_frame

MAX_REASON = 600
_CAUSED_BY = re.compile(r'File "([^"]+)", line (\d+), in (\w+)\s*\n\s*([^\n]*)')
_DROP = re.compile(
    r"^(The above exception|The error above|Set TORCH|For more information|For C\+\+|User code traceback|"
    r"Caused by|Arguments to call|Traceback|This is likely|To debug|\(refer to|from user code|Failed to export"
    r"|Potential framework code|- ?(Please|The model|Debug|Summary)|\s*at async|\s+\^|Here |The following call"
    r"|##|<class|⬇|⬆)",
    re.IGNORECASE,
)

# Advice about torch's own switches, which do not apply to somebody who did not call torch himself.
_ADVICE = re.compile(
    r"For more information, run with TORCH_LOGS=\S+\s*-?"
    r"|If you're using mark_dynamic, either remove it or use maybe_mark_dynamic\."
    r"|If you're using Dim\.DYNAMIC, replace it with either Dim\.STATIC or Dim\.AUTO\."
)


def condense(error: BaseException) -> tuple[str, str]:
    """``(reason, where)``: the first meaningful lines of the innermost cause, and ``file:line  source``."""
    causes = [error]
    while causes[-1].__cause__ is not None and causes[-1].__cause__ not in causes:
        causes.append(causes[-1].__cause__)
    innermost = causes[-1]
    text = str(innermost).strip() or type(innermost).__name__
    lines = [line.strip() for line in text.splitlines()]
    kept = [
        line for line in lines if line and not _DROP.match(line) and not line.startswith("File ")
    ]
    reason = _ADVICE.sub("", " ".join(kept[:6])) or text.splitlines()[0]
    reason = " ".join(reason.split())
    reason = f"{type(innermost).__name__}: {reason}"
    return reason[:MAX_REASON], _where(causes)


def _where(causes: list[BaseException]) -> str:
    for error in causes:
        for path, number, _, source in reversed(_CAUSED_BY.findall(str(error))):
            if "/site-packages/" not in path and not path.startswith("<"):
                return f"{short_path(path)}:{number}  {source.strip()}"
    return next((frame for frame in map(user_frame, causes) if frame), "")
