"""While many guess stealth codes, a knock needs a second one from the same source."""

import random
import time

import pytest

import hotp
import packets
from stage import BINARY, CLIENT, SERVER, SERVER6, Capture, Profile, Service

THROTTLED = "until they stop, a stealth knock opens only with a second one"
NEIGHBOUR = "10.9.0.9"


@pytest.fixture
def guessed_at(stage):
    """The gate's knock port opens for 170,000 codes, so 1,600 guesses are more than a day's 2^28."""
    stage.set_up(wire="stealth", error_window=10_000)
    stage.daemon.stop()
    Profile(stage, "others", ports=range(1001, 1017), knock_port=stage.gate.knock_port, wire="stealth")
    stage.start_daemon()
    return stage


def guess(stage):
    """Sends wrong codes from many sources, since the log rule takes 200 at once from one, until the daemon has enough."""
    for source in range(20, 200):
        for _ in range(150):
            stage.client.send(packets.syn(f"10.9.0.{source}", SERVER, 40000, stage.gate.knock_port,
                                          random.randint(1, 65535), random.getrandbits(32)))
        if any(THROTTLED in line for line in stage.daemon.new_lines()):
            stage.daemon.wait_for(THROTTLED)
            return
    raise AssertionError("the daemon takes any number of guesses")


def waits(stage, source=CLIENT):
    stage.daemon.wait_for(f"port {stage.PORT} stays closed to {source}: a second knock is required")


def test_amid_wrong_codes_the_second_knock_opens(guessed_at):
    stage = guessed_at
    stage.open_port()
    assert stage.connects(), "one knock opens before the wrong codes come"
    guess(stage)
    stage.knock()
    waits(stage)
    assert not stage.connects()
    code = hotp.code(stage.gate.keys[1], 2, stage.PORT)
    stage.client.send(packets.syn(NEIGHBOUR, SERVER, 40000, stage.gate.knock_port, code.identification, code.sequence))
    waits(stage, NEIGHBOUR)
    stage.knock()   # dead: the neighbour has used up its counter
    stage.open_port()
    assert stage.connects()
    assert not stage.connects()
    assert stage.gate.counter == 4


@pytest.mark.parametrize("host", [SERVER, SERVER6, "both.example"])
def test_connect_gets_in_amid_wrong_codes_with_one_more_knock(guessed_at, host):
    stage = guessed_at
    stage.set_client_hosts(f"{SERVER6} both.example\n{SERVER} both.example\n")
    if host != SERVER:
        stage.gate.client_path = stage.gate.client_path.rename(stage.client_dir / host)
    guess(stage)
    began = time.monotonic()
    done = stage.client.run(BINARY, "connect", "--dir", stage.client_dir, host, stage.PORT)
    assert done.stdout == Service.GREETING.decode()
    assert time.monotonic() - began < 1.5
    assert stage.gate.counter == 2


def test_a_knock_recorded_amid_wrong_codes_is_dead_after_them(guessed_at):
    stage = guessed_at
    guess(stage)
    capture = stage.keep(Capture(stage.client))
    stage.knock()
    waits(stage)
    [knock] = capture.sent(stage.gate.knock_port)

    def replay():
        for source in (NEIGHBOUR, CLIENT):
            stage.client.send(packets.syn(source, SERVER, 40001, stage.gate.knock_port, knock.identification, knock.sequence))
        assert stage.nothing_opened()

    replay()
    stage.daemon.stop()
    stage.start_daemon()    # which forgets the wrong codes, and who knocked
    replay()
    stage.open_port()
    assert stage.connects(), "one knock opens again"
