"""For `tests/trials/first_hour.py`: the documents in the order in which a new user meets them, what
is typed instead of what only a person can fill in, and what a bare tree cannot try."""

DOCUMENTS = (
    "README.md",
    "docs/install.md",
    "docs/replay.md",
    "docs/record.md",
    "docs/birds.md",
    "docs/own-birds.md",
    "docs/health.md",
    "docs/mqtt.md",
    "examples/README.md",
    "docs/training.md",
    "docs/corpus.md",
    "docs/jetson.md",
    "CONTRIBUTING.md",
)

_HERE = "$(sqlite3 station.db 'SELECT substr(id, 1, 8) FROM detections LIMIT 1')"
_THERE = (
    "$(sudo sqlite3 /var/lib/birdstation/station.db 'SELECT substr(id, 1, 8) FROM detections LIMIT "
    "1')"
)

# Pattern -> what is typed instead of it.
INSTEAD = {
    r"sudo nano (\S+)": r"sudo test -w \1",  # an editor waits for a person
    # so does the question whether the licence is accepted
    r"(make birds.*)": r"\1 ACCEPT=CC-BY-NC-SA-4.0",
    r"(python -m export adopt \S+ .*)": r"\1 --accept CC-BY-NC-SA-4.0",
    r"sudo systemctl enable --now birdstation$": "sudo -u birdstation birdstation replay "
    "/srv/recordings",
    r" && sudo systemctl .*": "",
    r"cd birdstation && git pull$": "cd ~/birdstation",
    r"(install -Dm600 /dev/stdin .*)": r"\1 <<<secret",
    r"(sudo -u birdstation birdstation (?:why|review)) ID": rf"\1 {_THERE}",
    r"^(birdstation (?:why|review)) (?:ID|3f2a)": rf"\1 {_HERE}",
}

# Pattern of "DOCUMENT: COMMAND" (as it would be typed) -> why it is not.
UNTRIED = {
    r"systemctl|journalctl": "nothing is booted in such a tree",
    r"^docs/jetson\.md": "wants a Jetson or an NVIDIA GPU",
    r"node_exporter": "a program of others",
    r"^docs/(training|corpus|own-birds)\.md: |demo-train|make own": "7 GB of libraries and a "
    "training",
    r"^CONTRIBUTING\.md": "7 GB of libraries and the whole suite",
    r"/srv/bundle": "wants a bundle there",
    r"usermod": "counts from the next login",
}

# Pattern of a command -> exit statuses that are right, where not 0 alone.
RIGHT = {
    r"birdstation check": (
        0,
        1,
    ),  # such a tree has no microphone and no clock that is kept, and check says so
}
