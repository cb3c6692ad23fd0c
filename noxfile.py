"""The lanes: ``nox`` runs everything that a change must pass; ``nox -s LANE`` one of them."""

import nox

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = True


def install(session: nox.Session, *groups: str) -> None:
    """Install pinned, hashed requirement files, then the package itself without looking further."""
    session.install("--quiet", "--require-hashes", *(f"-rrequirements/{group}.txt" for group in groups))
    if "runtime" in groups:
        session.install("--quiet", "--no-deps", "--no-build-isolation", "--editable", ".")


@nox.session
def lint(session: nox.Session) -> None:
    """Style and format (ruff)."""
    session.install("--quiet", "--require-hashes", "-rrequirements/lint.txt")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
