from __future__ import annotations

from frozen import TARGET

from pytest_torchexport import register_target

register_target("frozen", TARGET)
