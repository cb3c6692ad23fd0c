"""What the machines of the kernel lane share among themselves."""

import pytest

from tests.vm.lane import HALVES, ONCE, ROOT, SETTINGS, TESTS, Job, Part


def every_file() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / TESTS).glob("test_*.py"))


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_halves_hold_every_test_file_of_a_setting_once(setting: str) -> None:
    halves = [Job(setting, half).files() for half in HALVES]
    assert sorted(file for half in halves for file in half) == Job(setting).files()
    assert all(halves)


def test_every_test_file_runs_on_all_settings_or_is_named() -> None:
    once = {f"{TESTS}/{name}": setting for name, setting in ONCE.items()}
    assert set(once) <= set(every_file())
    for file in every_file():
        settings = [setting for setting in SETTINGS if file in Job(setting).files()]
        assert settings == ([once[file]] if file in once else list(SETTINGS))


@pytest.mark.parametrize("setting", SETTINGS)
def test_everywhere_is_every_test_file(setting: str) -> None:
    assert Job(setting).files(everywhere=True) == every_file()


def test_a_part_is_told_as_it_is_read() -> None:
    assert str(Part.parse("2/3")) == "2/3"


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "a/b", "1/2/3"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no part"):
        Part.parse(text)
