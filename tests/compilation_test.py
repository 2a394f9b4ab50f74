"""Tests that compiled programs are kept for later, and named while somebody waits for them."""

import concurrent.futures
import types

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from massformer_jax import compare, compilation, evaluate_files, main, predict
from massformer_jax.data.ahead import map_ahead
from massformer_jax.training import loop
from tests.helpers import tiny_config

SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def stopped(monkeypatch):
    """Stops the clock that waits are measured with: other work would be in the seconds."""
    monkeypatch.setattr(compilation, "time", types.SimpleNamespace(monotonic=lambda: 0.0))


@pytest.fixture(autouse=True)
def settings():
    """Restores JAX's settings afterwards."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def folder():
    return jax.config.jax_compilation_cache_dir


def test_where_programs_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = folder()
    compilation.keep_compiled()
    assert folder() == before, "the variable is set, and JAX has read it"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    compilation.keep_compiled()
    assert folder() == str(tmp_path / "massformer_jax")
    compilation.keep_compiled("/elsewhere")
    assert folder() == "/elsewhere"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    compilation.keep_compiled()
    assert folder() == str(tmp_path / ".cache" / "massformer_jax")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (predict, ["--checkpoint", "no", "--output", "no", "no.jpg"]),
        (evaluate_files, ["--predictions", "no", "--labels", "no"]),
        (compare, ["no.json", "no.json", "--output", "no.html"]),
        (main, [f"--config={tiny_config.__file__}", "--workdir=no"]),
    ],
)
def test_every_command_keeps_programs(command, arguments, tmp_path, monkeypatch):
    """A command that finds nothing to do also keeps its programs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "train_and_evaluate", lambda *_: None)
    command.main([*arguments, f"--compilation_cache={tmp_path}"])
    assert folder() == str(tmp_path)


def double(name, size=3):
    """Returns a new program that is announced as `name`, and an array of `size` numbers for it."""

    def run(x):
        compilation.announce(name)
        return 2 * x

    return jax.jit(run), jnp.zeros(size)


def test_only_what_is_waited_for_is_named(stopped):
    said = []
    program, x = double("doubling")
    with compilation.waits_said(said.append):
        jax.jit(lambda x: x + 1)(x)
        assert said == [], "this program was not announced"
        program(x)
        program(x)
        assert said == ["preparing doubling…", "… compiled, 0 s"]
        program(jnp.zeros(4))
        assert said[2:] == ["preparing doubling…", "… compiled, 0 s"]
    program(jnp.zeros(5))
    assert len(said) == 4, "nothing is said outside of the context"


def test_programs_of_threads_are_named(stopped):
    """As those of the soft edges, which are computed while files are written."""
    said = []
    program, x = double("doubling")
    with compilation.waits_said(said.append):
        list(map_ahead(program, [x], threads=1))
    assert said == ["preparing doubling…", "… compiled, 0 s"]


def test_another_thread_ends_no_wait(stopped):
    """Neither by compiling a program nor by reading one that was kept."""
    said, x = [], jnp.zeros(3)

    def elsewhere():
        jax.jit(lambda x: x + 1)(x)
        jax.monitoring.record_event("/jax/compilation_cache/cache_hits")

    def run(x):
        compilation.announce("doubling")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pool.submit(elsewhere).result()
        assert said == ["preparing doubling…"]
        return 2 * x

    with compilation.waits_said(said.append):
        jax.jit(run)(x)
    assert said == ["preparing doubling…", "… compiled, 0 s"]


def test_what_was_kept_is_read(tmp_path, monkeypatch, stopped):
    """This holds also if other programs were kept elsewhere before."""
    monkeypatch.setattr(compilation, "KEPT_FROM", 0)
    compilation.keep_compiled(str(tmp_path / "before"))
    jax.jit(lambda x: x - 1)(jnp.zeros(3))
    compilation.keep_compiled(str(tmp_path))
    said = []
    with compilation.waits_said(said.append):
        for _ in range(2):
            program, x = double("doubling")
            program(x)
    assert said[1] == f"… compiled and kept in {tmp_path}, 0 s"
    assert said[3] == f"… read from {tmp_path}, 0 s"
    assert list(tmp_path.glob("jit_run-*"))


def test_lines_go_to_standard_error(capsys):
    program, x = double("doubling")
    with compilation.waits_said():
        program(x)
    printed = capsys.readouterr()
    assert printed.err == "preparing doubling…\n… compiled, 0 s\n" and not printed.out
