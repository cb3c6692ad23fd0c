"""The cluster lane's administrator: pages and what is done here cannot drift apart."""

from pathlib import Path

import pytest

from tests.cluster.administrator import Administrator, Difference

PAGE = """# Install

In a file `my-values.yaml`:

```yaml
image: {repository: registry.example.com/driver}
```

```sh
modprobe loop
kubectl apply -f NAME
```

## Back

It is `kubectl delete NAME`, or, on a node, `rm -r /srv`.
"""
LOOP = Difference("modprobe loop", "it is there")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """With a kubectl that prints its arguments."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kubectl").symlink_to("/bin/echo")
    return tmp_path


def administrator(directory: Path, *differences: Difference, page: str = PAGE) -> Administrator:
    return Administrator(directory, {"PATH": f"{directory}/bin:/usr/bin:/bin"}, {"page.md": page}, differences)


def test_lines_are_run_as_they_stand_but_for_what_is_different(directory: Path) -> None:
    name = Difference("-f NAME", "the name of one", "-f one")
    made = administrator(directory, LOOP, name, Difference("registry.example.com", "there is none", "localhost"))
    assert made.follow("page.md", "Install") == ["apply -f one\n"]
    assert (directory / "my-values.yaml").read_text() == "image: {repository: localhost/driver}\n"


def test_a_line_that_is_neither_run_nor_explained_is_a_failure(directory: Path) -> None:
    with pytest.raises(AssertionError, match=r"page.md:9: neither run nor explained: modprobe loop"):
        administrator(directory).follow("page.md", "Install")
    with pytest.raises(AssertionError, match=r"page.md:16: neither run nor explained: rm -r /srv"):
        administrator(directory).follow("page.md", "Back")


def test_a_line_that_ends_with_another_status_is_a_failure(directory: Path) -> None:
    made = administrator(directory, LOOP, Difference("kubectl apply -f NAME", "there are differences", status=1))
    with pytest.raises(AssertionError, match="status 0 instead of 1"):
        made.follow("page.md", "Install")


def test_what_was_not_followed_and_what_no_page_has_is_told(directory: Path) -> None:
    made = administrator(directory, LOOP, Difference("modprobe nvme", "it is there"))
    made.follow("page.md", "Install")
    assert made.omissions() == [
        "page.md:16: not followed: kubectl delete NAME",
        "page.md:16: not followed: rm -r /srv",
        "in no page: modprobe nvme",
    ]


def test_a_heading_without_anything_to_do_is_a_failure(directory: Path) -> None:
    with pytest.raises(AssertionError, match=r"there is nothing to do in page\.md below 'Upgrade'"):
        administrator(directory).follow("page.md", "Upgrade")


def test_a_file_without_a_name_is_a_failure(directory: Path) -> None:
    made = administrator(directory, page=PAGE.replace("`my-values.yaml`", "of yours"))
    with pytest.raises(AssertionError, match="no sentence above tells the name"):
        made.follow("page.md", "Install")
