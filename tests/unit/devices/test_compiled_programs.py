"""Which folder compiled programs are kept in, and when in none."""

import os
from pathlib import Path

import pytest

from ntkcl_jax.devices import compiled_programs
from ntkcl_jax.devices.compiled_programs import FOLDER, SWITCH, drop_oldest, keep_programs, machine_key


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set first, so that what the function sets is put back too
    for name in (FOLDER, SWITCH, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_programs_are_kept_for_the_owner_alone_and_by_machine(tmp_path: Path) -> None:
    cpu = tmp_path / "cpuinfo"
    cpu.write_text("processor : 0\nmodel name : A\nflags : sse\nMHz : 1\n")
    folder = keep_programs(tmp_path / "cache", cpu)
    assert folder == tmp_path / "cache" / "ntkcl-jax" / "programs" / machine_key(cpu)
    assert os.environ[FOLDER] == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    before = machine_key(cpu)
    cpu.write_text("processor : 0\nmodel name : A\nflags : sse\nMHz : 2\n")
    assert machine_key(cpu) == before
    cpu.write_text("processor : 0\nmodel name : A\nflags : sse avx\nMHz : 2\n")
    assert machine_key(cpu) != before


@pytest.mark.parametrize("name", [FOLDER, SWITCH])
def test_what_the_user_has_set_stays(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "false")
    assert keep_programs(tmp_path / "cache") is None
    assert os.environ[name] == "false"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("part", ["", "ntkcl-jax", "ntkcl-jax/programs"])
def test_a_folder_that_others_can_write_to_is_not_used(part: str, tmp_path: Path) -> None:
    shared = tmp_path / "cache" / part
    shared.mkdir(parents=True)
    shared.chmod(0o777)
    assert keep_programs(tmp_path / "cache") is None
    assert FOLDER not in os.environ
    shared.chmod(0o700)
    # mkdir made the ones above by the umask
    for above in (tmp_path / "cache", tmp_path / "cache" / "ntkcl-jax"):
        above.chmod(0o700)
    assert keep_programs(tmp_path / "cache") is not None


def test_a_link_or_a_file_in_its_place_is_not_used(tmp_path: Path) -> None:
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    cache.mkdir(mode=0o700)
    elsewhere.mkdir(mode=0o700)
    (cache / "ntkcl-jax").symlink_to(elsewhere)
    assert keep_programs(cache) is None
    (cache / "ntkcl-jax").unlink()
    (cache / "ntkcl-jax").write_text("")
    assert keep_programs(cache) is None


def test_xlas_lines_about_cpu_features_are_kept_quiet_where_it_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, level in (("0.11.0", None), ("0.10.1", "3")):
        monkeypatch.setattr(compiled_programs.importlib.metadata, "version", lambda _, v=version: v)
        monkeypatch.delenv(FOLDER, raising=False)
        assert keep_programs(tmp_path / "cache") is not None
        assert os.environ.get("TF_CPP_MIN_LOG_LEVEL") == level


def test_the_oldest_programs_go(tmp_path: Path) -> None:
    for age, name in enumerate(["newest", "middle", "oldest"]):
        file = tmp_path / name / "program"
        file.parent.mkdir()
        file.write_bytes(bytes(10))
        os.utime(file, (1000 - age, 1000 - age))
    drop_oldest(tmp_path, 30)
    assert len(list(tmp_path.rglob("program"))) == 3
    drop_oldest(tmp_path, 19)
    assert [path.parent.name for path in tmp_path.rglob("program")] == ["newest"]
