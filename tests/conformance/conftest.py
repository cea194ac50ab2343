"""Lets transformers' common tests be collected under the project's strict settings."""

# Markers that the common tests carry; none of them selects or skips anything here.
_MARKERS = (
    "accelerate_tests",
    "deepspeed",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "flash_attn_test",
    "torch_compile_test",
    "torch_export_test",
)


def pytest_configure(config):
    for marker in _MARKERS:
        config.addinivalue_line("markers", f"{marker}: set by transformers' common tests")
