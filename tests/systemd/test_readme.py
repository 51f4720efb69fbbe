"""The README's commands, as they are written there, from the first profile to uninstalling, on a machine that runs systemd."""

import re
from pathlib import Path

from test_unit import DRIVER_ALONE, HERE, PROJECT, play, root, system  # noqa: F401 (fixtures)

README = (PROJECT / "README.md").read_text()


def section(title):
    return re.search(rf"^## {title}$(.*?)^## ", README, re.M | re.S)[1]


def blocks(title):
    """The lines of each code block of a section, without their comments."""
    found = re.findall(r"^```\n(.*?)^```$", section(title), re.M | re.S)
    return [[re.sub(r"\s{2,}#.*", "", line) for line in block.splitlines()] for block in found]


def quoted(text):
    return "'" + text.replace("'", "'\\''") + "'"


def day_two():
    """The commands of each task in the table."""
    rows = re.findall(r"^\| (\w.*?) \| (.*) \|$", section("Day 2"), re.M)
    return {task: re.findall(r"`([^`]+)`", commands) for task, commands in rows}


def test_the_commands_of_the_readme_work(root):  # noqa: F811
    prepare, fetch, trial, ssh_config, start = blocks("Quick start")
    proxy, curl = blocks("Other programs")[0]
    tasks = day_two()
    [add, accept], [listing] = tasks["add a client"], tasks["list clients, openings and counts"]
    [revoke], [rotate, put_aside, _] = tasks["revoke a client, at once"], tasks["replace keys"]
    reload, [upgrade], [uninstall, forget] = tasks["reload"][0], tasks["upgrade"], tasks["uninstall"][:2]
    client_forget = tasks["uninstall"][-1]
    assert upgrade.startswith("git pull && make && ")  # no network in there, and nothing to pull
    upgrade = upgrade.removeprefix("git pull && make && ")

    lines = [f"{'invite' if ' invite ' in line else 'server'} {quoted(line)}" for line in prepare]
    lines += [f"{'accept' if ' accept' in line else 'client'} {quoted(line)}" for line in fetch]
    lines += ["check 'port 22 is open before the daemon runs' connects 22"]
    lines += [f"server {quoted(line)}" for line in trial]
    lines += ["check 'the guard is on trial' closed 22",
              f"client {quoted('cat >~/.ssh/config <<END' + chr(10) + chr(10).join(ssh_config) + chr(10) + 'END')}",
              "client 'ssh server.example.org true'",
              f"server {quoted(start[0] + ' | grep passed')}"]
    lines += [f"server {quoted(line)}" for line in start[1:]]
    lines += ["check 'the guard stands' closed 22", "check 'the daemon is ready' soon more ': ready' 0",
              "client 'ssh server.example.org true'",
              "check 'the guard stands after ssh' closed 22",
              f"background {quoted(proxy)}",
              f"client {quoted(curl.replace('https://server.example.org/', 'telnet://server.example.org:22') + ' --max-time 5 </dev/null | grep -q ^SSH-')}",
              # Day 2
              f"invite {quoted(add)}", f"reload {quoted(reload)}", f"server {quoted(listing + ' | grep desktop')}",
              f"accept {quoted(accept + ' --dir ~/desktop')}", "check 'the second client knocks' knocks 22 /home/bob/desktop",
              f"server {quoted(revoke)}",
              "check 'the revoked key opens nothing' not knocks 22 /home/bob/desktop", "client 'ssh server.example.org true'",
              f"invite {quoted(rotate)}", f"reload {quoted(reload)}", "client 'ssh server.example.org true'",
              f"client {quoted(put_aside)}", f"accept {quoted(accept)}", "client 'ssh server.example.org true'",
              "client 'mkdir ~/old && cp -r ~/.knockknock/server.example.org.*.off ~/old/server.example.org'",
              "check 'the replaced key opens nothing' not knocks 22 /home/bob/old", "client 'ssh server.example.org true'",
              "server 'sed -i \"s/^guard.*/guard = 22, 80/\" /etc/knockknock.d/config'",
              "server 'sed -i \"s/^ports.*/ports = 22, 80/\" /etc/knockknock.d/profiles/laptop/config'",
              "client 'sed -i \"s/^ports.*/ports = 22, 80/\" ~/.knockknock/server.example.org/config'",
              "check 'port 80 is open before it is guarded' connects 80", f"reload {quoted(reload)}",
              "check 'port 80 is guarded' closed 80", "check 'a knock opens port 80' knocks 80 /home/bob/.knockknock",
              f"server {quoted(upgrade)}", "check 'the guard stands after the upgrade' closed 22",
              f"client {quoted(fetch[-1])}",
              "client 'ssh server.example.org true'",
              f"server {quoted(uninstall)}", "check 'port 22 is open again' connects 22",
              "check 'the program is gone' not command -v knockknock", f"server {quoted(forget)}",
              f"client {quoted(client_forget)}",
              'echo "$passed passed, $failed failed"']
    machines = (HERE / "readme.sh").read_text()
    Path("/proc/sys/net/netfilter/nf_log_all_netns").write_text("1")  # log rules speak from a namespace
    play(root, f"PROJECT={PROJECT}\n{machines}" + "\n".join(lines) + "\n", DRIVER_ALONE)
