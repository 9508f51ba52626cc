"""Wrong values of every setting: name, value, and what the message must hold."""

from __future__ import annotations

WRONG_INI = [
    ("targets", "onx", ["torchexport_targets", "'onx' is not a target", "mean 'onnx'?"]),
    ("targets", "", ["torchexport_targets", "no target given"]),
    ("devices", "gpu", ["torchexport_devices", "'gpu' is not a device", "cpu, cuda, cuda:N"]),
    ("max_examples", "0", ["torchexport_max_examples", "whole number of at least 1"]),
    ("max_examples", "many", ["torchexport_max_examples", "whole number of at least 1"]),
    ("max_examples", "", ["torchexport_max_examples", "whole number of at least 1"]),
    ("explore_calls", "0", ["torchexport_explore_calls", "whole number of at least 1"]),
    ("explore_calls", "all", ["torchexport_explore_calls", "whole number of at least 1"]),
    ("min_branch_coverage", "101", ["torchexport_min_branch_coverage", "from 0 to 100"]),
    ("min_branch_coverage", "-1", ["torchexport_min_branch_coverage", "from 0 to 100"]),
    ("min_branch_coverage", "nan", ["torchexport_min_branch_coverage", "from 0 to 100"]),
    ("min_branch_coverage", "full", ["torchexport_min_branch_coverage", "from 0 to 100"]),
    ("follow", "my-models", ["torchexport_follow", "'my-models' is not the name"]),
    ("strict", "perhaps", ["torchexport_strict", "Legal: true, false"]),
    ("self_test", "perhaps", ["torchexport_self_test", "Legal: true, false"]),
    ("report", "html", ["torchexport_report", "'html' is not FORMAT:PATH"]),
    ("report", "json:", ["torchexport_report", "'json:' is not FORMAT:PATH"]),
    ("report", "jsn:x", ["torchexport_report", "legal formats: json", "mean 'json'?"]),
    ("time_limit", "0", ["torchexport_time_limit", "positive number of seconds"]),
    ("time_limit", "-3", ["torchexport_time_limit", "positive number of seconds"]),
    ("time_limit", "nan", ["torchexport_time_limit", "positive number of seconds"]),
    ("time_limit", "inf", ["torchexport_time_limit", "positive number of seconds"]),
    ("time_limit", "soon", ["torchexport_time_limit", "positive number of seconds"]),
    ("mode", "evall", ["torchexport_mode", "legal: eval, train, as-is", "mean 'eval'?"]),
    ("runtime_imports", "my-ops", ["torchexport_runtime_imports", "'my-ops' is not the name"]),
]
