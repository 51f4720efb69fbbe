"""The command line: applets, usage, exit statuses, and errors that say what to do."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stage import BINARY

ALIASES = ("knockknock-daemon", "knockknock-genprofile", "knockknock-proxy")


def run(*argv, program=BINARY, **options):
    return subprocess.run([program, *map(str, argv)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=10, **options)


def test_help_lists_the_applets():
    done = run("--help")
    assert done.returncode == 0 and done.stderr == ""
    for applet in ("knock", "daemon", "genprofile"):
        assert applet in done.stdout


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("applet", [(), ("daemon",), ("genprofile",), ("knock",)])
def test_each_applet_has_help(applet, flag):
    done = run(*applet, flag)
    assert done.returncode == 0
    assert done.stdout and done.stderr == ""


def test_version():
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("knockknock ") and done.stdout.count("\n") == 1


def test_no_arguments_is_usage():
    done = run()
    assert done.returncode == 2
    assert done.stdout == "" and done.stderr


def test_an_unknown_applet_is_127():
    done = run("frobnicate")
    assert done.returncode == 127
    assert '"frobnicate"' in done.stderr


def test_a_host_without_p_is_told_how_to_knock():
    done = run("server.example.org")
    assert "to knock: knockknock -p PORT server.example.org; knockknock --help lists the applets" in done.stderr


@pytest.mark.parametrize("argv", [
    ("--frobnicate",), ("-p",), ("-p", "22"), ("-p", "22", "host", "extra"), ("-x", "22", "host"),
    ("daemon", "--frobnicate"), ("daemon", "extra"), ("daemon", "--dir"), ("genprofile", "one"),
    ("genprofile", "a", "1", "b"), ("-p", "x", "host"), ("-p", "-1", "host"), ("-p", "", "host"),
    ("-p", "22", "-p", "23", "host"),
], ids=str)
def test_wrong_usage_is_2(argv):
    done = run(*argv)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("knockknock")


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_its_applet(tmp_path, alias):
    (tmp_path / alias).symlink_to(BINARY)
    by_alias = run("--help", program=tmp_path / alias)
    assert by_alias.returncode == 0
    assert by_alias.stdout == run(alias.removeprefix("knockknock-"), "--help").stdout.replace(
        alias.replace("-", " "), alias) or alias in by_alias.stdout


def test_an_alias_through_a_chain_of_links(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "binary").symlink_to(BINARY)
    (tmp_path / "knockknock-genprofile").symlink_to("a/binary")
    (tmp_path / "b").symlink_to(tmp_path)
    done = run("gate", 666, "--dir", tmp_path / "etc", program=tmp_path / "b" / "knockknock-genprofile")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "etc/profiles/gate/counter").exists()


def test_a_link_to_an_alias_is_that_applet(tmp_path):
    """`any chain of symlinks`: the link's own name says nothing, the one behind it does."""
    (tmp_path / "knockknock-genprofile").symlink_to(BINARY)
    (tmp_path / "make-profile").symlink_to("knockknock-genprofile")
    done = run("gate", 666, "--dir", tmp_path / "etc", program=tmp_path / "make-profile")
    assert done.returncode == 0, done.stderr


def test_an_alias_found_through_path(tmp_path):
    (tmp_path / "knockknock-genprofile").symlink_to(BINARY)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = run("gate", 666, "--dir", tmp_path / "etc", program="knockknock-genprofile", env=environment)
    assert done.returncode == 0, done.stderr


def test_no_argv_at_all():
    execute = "import ctypes, sys; ctypes.CDLL(None).execv(sys.argv[1].encode(), (ctypes.c_char_p * 1)(None))"
    done = run("-c", execute, BINARY, program=sys.executable)
    assert done.returncode == 2
    assert "knockknock --help" in done.stderr


def test_an_argument_that_is_not_utf8():
    done = subprocess.run([BINARY, "-p", "22", b"\xff\xfe"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=10)
    assert done.returncode in (1, 2)
    assert b"\xff" not in done.stderr and b"panicked" not in done.stderr


def test_control_bytes_are_escaped(tmp_path):
    done = run("--dir", tmp_path, "-p", "22", "a\x1b[31mb\nc")
    assert done.returncode in (1, 2)
    assert "\x1b" not in done.stderr
    assert "a\\x1b[31mb\\nc" in done.stderr or "a\\u{1b}[31mb\\nc" in done.stderr


def test_closed_standard_output():
    done = subprocess.run(["sh", "-c", f'"{BINARY}" --help >&-'], stderr=subprocess.PIPE, timeout=10)
    assert done.returncode in (0, 1)
    assert b"panicked" not in done.stderr


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a raw socket")


@pytest.fixture
def profiles(tmp_path):
    """A client's directory with the profile 127.0.0.1."""
    assert run("genprofile", "127.0.0.1", 666, "--dir", tmp_path / "server").returncode == 0
    shutil.copytree(tmp_path / "server/profiles", tmp_path / "client")
    return tmp_path / "client"


@needs_root
@pytest.mark.parametrize("port", [("-p", "22"), ("-p22",), ("--port", "22"), ("--port=22",)], ids=str)
@pytest.mark.parametrize("applet", [(), ("knock",)], ids=["knockknock", "knockknock knock"])
def test_the_port_in_each_spelling(profiles, applet, port):
    for number, argv in enumerate(([*port, "--dir", profiles, "127.0.0.1"], [f"--dir={profiles}", "127.0.0.1", *port]), 1):
        done = run(*applet, *argv)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert (profiles / "127.0.0.1/counter").read_text() == f"{number:010}\n"


def one_clear_line(stderr):
    """The error on the first line; what to do on the second, where there is one."""
    lines = stderr.splitlines()
    return 1 <= len(lines) <= 2 and lines[0].startswith("knockknock: ") and lines[0] == lines[0].rstrip(".")


@needs_root
@pytest.mark.parametrize("file, content", [
    ("cipher.key", b"AAAA\n"), ("cipher.key", b""), ("cipher.key", b"!!!!!!!!!!!!!!!!!!!!!!==\n"),
    ("mac.key", b"A" * 43 + b"=\n"), ("mac.key", None), ("cipher.key", None),
    ("counter", b""), ("counter", b"\n"), ("counter", b"seven\n"), ("counter", b"-1\n"), ("counter", b"4294967295\n"),
    ("counter", b"4294967296\n"), ("counter", b"99999999999999999999\n"), ("counter", None),
    ("config", b""), ("config", b"[main]\n"), ("config", b"[main]\nknock_port = 0\n"),
    ("config", b"[main]\nknock_port = x\n"), ("config", None),
], ids=str)
def test_a_bad_profile_is_one_clear_error(profiles, file, content):
    profile = profiles / "127.0.0.1"
    path = profile / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    before = {each: each.read_bytes() for each in profile.iterdir()}
    done = run("-p", "22", "--dir", profiles, "127.0.0.1")
    assert done.returncode == 1
    assert one_clear_line(done.stderr), done.stderr
    assert file in done.stderr
    assert file != "config" or content is None or "copy the profile again" in done.stderr
    assert {each: each.read_bytes() for each in profile.iterdir()} == before


@needs_root
@pytest.mark.parametrize("argv, named", [
    (("-p", "0", "127.0.0.1"), "0"), (("-p", "70000", "127.0.0.1"), "70000"), (("-p", "22", "unknown.invalid"), "unknown.invalid"),
], ids=str)
def test_a_bad_request_is_one_clear_error(profiles, argv, named):
    counter = profiles / "127.0.0.1/counter"
    before = counter.read_bytes()
    done = run("--dir", profiles, *argv)
    assert done.returncode in (1, 2)
    assert one_clear_line(done.stderr), done.stderr
    assert f'"{named}"' in done.stderr
    assert counter.read_bytes() == before


@needs_root
def test_a_missing_directory_of_profiles_is_named(tmp_path):
    done = run("-p", "22", "--dir", tmp_path / "none", "127.0.0.1")
    assert done.returncode == 1
    assert str(tmp_path / "none") in done.stderr
    assert f'mkdir -p "{tmp_path}/none" && scp -r root@127.0.0.1:' in done.stderr, "scp makes no directories on the way"


def test_a_set_uid_binary_does_nothing_for_strangers_but_knock(tmp_path):
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:  # pytest's directories are root's alone
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    binary = tmp_path / "knockknock"
    shutil.copy(BINARY, binary)
    binary.chmod(0o4755)

    def stranger(*arguments):
        return subprocess.run(["setpriv", "--reuid", "65432", "--regid", "65432", "--clear-groups", binary, *arguments],
                              capture_output=True, text=True, timeout=10)

    for arguments in (["daemon", "--unguard"], ["daemon"], ["proxy", "0"], ["genprofile", "x", "77", "--dir", tmp_path / "d"]):
        done = stranger(*arguments)
        assert done.returncode == 1 and "set-uid" in done.stderr
    assert not (tmp_path / "d").exists()
    (tmp_path / "secret").mkdir(mode=0o700)
    done = stranger("-p", "22", "--dir", tmp_path / "secret", "127.0.0.1")
    assert done.returncode == 1 and "permission denied" in done.stderr, "it reads as the stranger"
    assert run("genprofile", "127.0.0.1", 666, "--dir", tmp_path / "server").returncode == 0
    own = shutil.copytree(tmp_path / "server/profiles", tmp_path / "own")
    for path in (own, *own.rglob("*")):
        os.chown(path, 65432, 65432)
    done = stranger("-p", "22", "--dir", own, "127.0.0.1")
    assert (done.returncode, done.stderr) == (0, "")
    assert (own / "127.0.0.1/counter").read_text() == "0000000001\n"


ROOT = Path(__file__).parents[2]
PAGES = {"knock": "knockknock.1", "daemon": "knockknock-daemon.8", "genprofile": "knockknock-genprofile.1",
         "connect": "knockknock-connect.1", "proxy": "knockknock-proxy.1"}


def page(name):
    """A manual page's text without its escapes."""
    return (ROOT / "man" / name).read_text().replace("\\-", "-").replace("\\&", "")


def test_every_applet_has_its_manual_page():
    applets = re.findall(r"^  (\w+) ", run("--help").stdout, re.M)
    assert sorted(applets) == sorted(PAGES)


@pytest.mark.parametrize("applet", PAGES)
def test_help_and_manual_page_have_the_same_options(applet):
    in_help = set(re.findall(r"(?<!\w)--[a-z][a-z0-9-]*", run(applet, "--help").stdout))
    ours = re.sub(r"^ip6?tables .*$", "", page(PAGES[applet]), flags=re.M)
    in_page = set(re.findall(r"(?<!\w)--[a-z][a-z0-9-]*", ours))
    assert in_help <= in_page
    assert in_page - in_help <= {"--version"}


def test_readme_and_manual_page_have_every_key_of_the_config():
    keys = re.findall(r"^    /// `(\w+)`", (ROOT / "src/config.rs").read_text(), re.M)
    assert len(keys) == 9
    for key in keys:
        assert f"| `{key}` |" in (ROOT / "README.md").read_text()
        assert re.search(rf"^\.BR {key} ", page("knockknock-daemon.8"), re.M)
