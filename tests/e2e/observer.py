"""An observer who tells knocks from connections, if anything does: it has recorded many SYNs of one pair of hosts, sees
some more, and is told which of these are knocks. A permutation test says whether it could have known."""

import random
import statistics

# By chance one sample in a hundred has p below 0.01, but not two of them in a row.
TRIES = 2


def _signed(number, bits=32):
    number %= 1 << bits
    return number - (1 << bits) if number >> bits - 1 else number


def _ranks(values):
    """Ranks from -1 to 1; equal values share theirs."""
    places = {}
    for place, value in enumerate(sorted(values)):
        places.setdefault(value, []).append(place)
    middle = (len(values) - 1) / 2 or 1
    return [(statistics.fmean(places[value]) - middle) / middle for value in values]


def features(recorded, seen):
    """What the observer computes from the packets that it sees, in their order: name → a number for each packet.

    `recorded` are the pair's SYNs from before; packets have .at, the time of the capture in seconds."""
    offset = statistics.median(_signed(packet.timestamp - int(packet.at * 1000)) for packet in recorded)
    sequences = {packet.source_port: packet for packet in recorded}
    before = [recorded[-1], *seen[:-1]]
    label_bits = 20 if seen[0].version == 6 else 16

    def label(packet):
        return packet.flow_label if packet.version == 6 else packet.identification

    def off_the_sequence_clock(packet):
        """How far a repeated 4-tuple's sequence number is from where the kernel's 64 ns clock has it."""
        known = sequences.get(packet.source_port)
        if known is None:
            return 0
        return abs(_signed(packet.sequence - known.sequence - int((packet.at - known.at) * 1e9 / 64)))

    found = {
        "timestamp, off the pair's clock": [abs(_signed(p.timestamp - int(p.at * 1000)) - offset) for p in seen],
        "timestamp, off the last SYN's clock": [
            abs(_signed(p.timestamp - q.timestamp - round((p.at - q.at) * 1000))) for p, q in zip(seen, before)],
        "timestamp": [p.timestamp for p in seen],
        "timestamp, lowest bit": [p.timestamp & 1 for p in seen],
        "time since the clock's tick": [p.at * 1000 % 1 for p in seen],
        "identification or flow label": [label(p) for p in seen],
        "its step": [(label(p) - label(q)) % (1 << label_bits) for p, q in zip(seen, before)],
        "its lowest byte": [label(p) & 0xFF for p in seen],
        "its top": [label(p) >> label_bits - 4 for p in seen],
        "sequence number": [p.sequence for p in seen],
        "its step ": [(p.sequence - q.sequence) % 2**32 for p, q in zip(seen, before)],
        "its lowest byte ": [p.sequence & 0xFF for p in seen],
        "sequence number of a repeated 4-tuple": [off_the_sequence_clock(p) for p in seen],
        "source port": [p.source_port for p in seen],
        "source port's step": [(p.source_port - q.source_port) % 28232 for p, q in zip(seen, before)],
        "source port's parity": [p.source_port & 1 for p in seen],
    }
    for field in ("ttl", "window", "options_layout"):
        values = [getattr(p, field) for p in seen]
        found[field] = [sorted(set(values)).index(value) for value in values]
    return found


def permutation_test(found, is_knock, rounds=2000, seed=1):
    """How well the features, each and in pairs, put the knocks apart from the connections: the best one's name, its
    statistic, and the share of random labellings whose best one does as well (p).

    A field's statistics are the difference of the two groups' mean ranks and mean squared ranks; a pair's is the
    difference of the mean product of its ranks."""
    ranks = {name: _ranks(values) for name, values in found.items() if len(set(values)) > 1}
    columns = {}
    names = list(ranks)
    for place, name in enumerate(names):
        columns[name] = ranks[name]
        columns[f"spread of {name}"] = [rank * rank for rank in ranks[name]]
        for other in names[place + 1:]:
            columns[f"{name} with {other}"] = [one * two for one, two in zip(ranks[name], ranks[other])]
    count = sum(is_knock)
    standard = {}
    for name, values in columns.items():
        mean, spread = statistics.fmean(values), statistics.pstdev(values)
        if spread > 1e-9:
            # The sum of `count` of them, drawn by chance, has this standard deviation.
            total = len(values)
            deviation = spread * (count * (total - count) / (total - 1)) ** 0.5
            standard[name] = [(value - mean) / deviation for value in values]
    rows = list(zip(*standard.values()))

    def best(places):
        sums = [abs(total) for total in map(sum, zip(*(rows[place] for place in places)))]
        largest = max(sums)
        return largest, sums.index(largest)

    everything = range(len(is_knock))
    real, at = best([place for place in everything if is_knock[place]])
    dice = random.Random(seed)
    as_good = sum(best(dice.sample(everything, count))[0] >= real - 1e-9 for _ in range(rounds))
    return list(standard)[at], real, (as_good + 1) / (rounds + 1)
