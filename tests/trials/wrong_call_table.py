"""The calls of `tests/trials/wrong_calls.py`: what is typed, and which exit statuses need no
excuse."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stop:
    """A right call that is interrupted: once a file of this pattern is in `{mine}`, and then so
    many seconds later."""

    call: str
    begun: str = ""
    after_s: float = 0.0
    times: int = 1
    right: tuple[int, ...] = ()  # beside 130: it had ended before, or stops as it should

    @property
    def when(self) -> str:
        """For the screen."""
        return f"^C × {self.times}, {self.after_s:g} s after {self.begun or 'it began to load'}"


_GOOD = "--config {mine}/good.yaml"
_DEEP = "/".join(["deep"] * 60)
_LONG = "x" * 300

# Values: exit statuses other than failure that are right for this call.
WRONG: dict[str, tuple[int, ...]] = {
    # wrong paths
    "edge replay {gone}": (),
    f"edge replay {{mine}}/empty {_GOOD}": (0,),  # "No recordings found"
    f"edge replay {{mine}}/recordings/page.html {_GOOD}": (0, 3),
    f"edge replay /dev/null {_GOOD}": (0, 3),
    f"edge replay {{mine}}/{_LONG} {_GOOD}": (),
    "edge replay {mine}/recordings --config {gone}.yaml": (),
    "edge replay {mine}/recordings --config {mine}": (),
    "edge replay {mine}/recordings --config {mine}/recordings/cut.wav": (),
    "edge replay {mine}/recordings --config {mine}/latin.yaml": (),
    "edge replay {mine}/recordings --config {mine}/colon.yaml": (),
    "edge replay {mine}/recordings --config {mine}/key.yaml": (),
    "edge replay {mine}/recordings --config {mine}/comma.yaml": (),
    "edge replay {mine}/recordings --config {mine}/bundle.yaml": (),
    f"edge replay {{mine}}/recordings {_GOOD} --labels {{gone}}.csv": (),
    f"edge replay {{mine}}/recordings {_GOOD} --labels {{mine}}": (),
    f"edge replay {{mine}}/recordings {_GOOD} --labels {{mine}}/labels.csv": (),
    f"edge replay {{mine}}/recordings {_GOOD} --cluster nosuch:1": (),
    f"edge replay {{mine}}/recordings {_GOOD} --parquet /proc/x": (),
    "edge demo --source {gone}": (),
    "edge run --config {mine}/bundle.yaml": (),
    "edge why 12 --config {mine}/fresh.yaml": (),
    f"edge why zz {_GOOD}": (),
    f"edge why '' {_GOOD}": (),
    f"edge review zz correct {_GOOD}": (),
    f"edge review 0 perhaps {_GOOD}": (),
    "edge retention --dry-run --config {mine}/new.yaml": (),
    "edge clock show --config {mine}/fresh.yaml": (0, 2),
    f"edge clock fix --boot 123 --seconds 60 {_GOOD}": (),
    f"edge clock fix --boot 123 --seconds soon {_GOOD}": (),
    f"edge pictures {{gone}} {_GOOD}": (),
    f"edge pictures {{mine}}/empty {_GOOD}": (0,),
    "trainer check-data --data {gone}": (),
    "trainer check-data --data {mine}/sorted": (),
    "trainer fit-all --data {gone} --out run": (),
    "trainer fit-all --data {mine}/sorted --out run --recipe demo": (),
    "trainer fit-all --data {mine}/sorted --out run --recipe nosuch": (),
    "trainer recipe nosuch": (),
    "trainer predict --run {gone} --soundscapes {mine}/recordings --out p.csv": (),
    "trainer score --predictions {gone}.csv --labels {mine}/labels.csv": (),
    "trainer score --predictions {mine}/labels.csv --labels {mine}/labels.csv": (),
    "trainer mix-soundscapes --data {mine}/sorted --backgrounds {gone} --out mixed": (),
    "export onnx --run {gone} --out bundle": (),
    "export verify {gone}": (),
    "export verify {mine}/recordings": (),
    "export verify {bundle}/manifest.json": (),
    "export tune {gone} --state {mine}/state": (),
    "export adopt nosuch --out bundle": (),
    "export birds {gone}": (),
    # what may not be read
    "edge replay {closed}": (),
    f"edge replay {{theirs}} {_GOOD}": (0, 3),
    "edge replay {mine}/recordings --config {closed}/station.yaml": (),
    f"edge replay {{mine}}/recordings {_GOOD} --labels {{closed}}/labels.csv": (),
    "edge check --listen-s 0 --config {closed}/station.yaml": (),
    "trainer check-data --data {closed}": (),
    "export verify {closed}": (),
    "export tune {bundle} --state {closed}": (),
    # what may not be written
    "edge replay {mine}/recordings --config {mine}/theirs.yaml": (),
    "edge replay {mine}/recordings --config {mine}/closed.yaml": (),
    "edge run --config {mine}/closed.yaml": (),
    "edge check --listen-s 0 --config {mine}/theirs.yaml": (),
    "edge check --listen-s 0 --config {mine}/closed.yaml": (),
    "edge why 3f2a --config {mine}/theirs.yaml": (),
    "edge why 3f2a --config {mine}/closed.yaml": (),
    "edge review 3f2a correct --config {mine}/theirs.yaml": (),
    "edge clock show --config {mine}/closed.yaml": (),
    "edge retention --dry-run --config {mine}/theirs.yaml": (),
    "edge retention --config {mine}/closed.yaml": (),
    "edge backup --config {mine}/closed.yaml": (),
    f"edge backup {_GOOD} --folder {{theirs}}/backups": (),
    f"edge pictures {_GOOD} --out {{theirs}}/pages": (),
    "edge pictures --config {mine}/closed.yaml": (),
    "edge demo --out {theirs}/demo": (),
    "edge demo --out /proc/x": (),
    "edge demo --out {mine}/good.yaml": (),
    "trainer demo-data {theirs}/corpus": (),
    "trainer demo-data /proc/x": (),
    "trainer folds --data {mine}/sorted --out /proc/folds.csv": (),
    "trainer fit-all --data {mine}/sorted --out {theirs}/run --recipe demo": (),
    "export birds {mine}/recordings --bundle {bundle} --out {theirs}/birds": (),
    f"export onnx --run {{mine}} --out {{theirs}}/{_DEEP}": (),
    # what was typed goes to a screen that takes nothing
    "edge --help >/dev/full": (),
    f"edge replay {{mine}}/recordings {_GOOD} >/dev/full": (),
    "trainer recipe demo >/dev/full": (),
}

INTERRUPTED = (
    *(Stop("edge --help", after_s=after, right=(0,)) for after in (0.0, 0.1, 0.3, 0.6)),
    *(Stop("trainer recipe demo", after_s=after, right=(0,)) for after in (0.0, 0.4)),
    Stop("edge replay {mine}/many --config {mine}/first.yaml", after_s=0.8),
    Stop("edge replay {mine}/many --config {mine}/one.yaml", "one/station.db", 0.5),
    Stop(
        "edge replay {mine}/many --config {mine}/two.yaml --jobs 2", "two/station.db", 0.3, times=2
    ),
    Stop(
        "edge run --config {mine}/theirs.yaml", after_s=6.0, right=(0, 73, 78)
    ),  # it tries again until it is stopped
    Stop("edge run --config {mine}/folder.yaml", "live/station.db", 0.5, right=(0,)),
    Stop("edge check --listen-s 30 --config {mine}/good.yaml", after_s=1.5, right=(0, 1)),
    Stop("edge demo --out {mine}/shown", "shown/station.db", 0.2, right=(0,)),
    Stop(
        "edge pictures {mine}/recordings --config {mine}/good.yaml --out {mine}/page",
        after_s=1.2,
        right=(0,),
    ),
    Stop("trainer demo-data {mine}/corpus", "corpus/**/*.ogg", 0.5),
    Stop("trainer demo-data {mine}/corpus", "corpus/**/*.ogg", 1.5, times=2),
    Stop(
        "trainer demo-data {mine}/little --species 3 --recordings 2 --soundscapes 1",
        after_s=2.0,
        right=(0,),
    ),
    Stop("export verify {bundle}", after_s=1.0, right=(0,)),
    Stop("export tune {bundle} --state {mine}/tuned", after_s=3.0, right=(0,)),
    Stop(
        "export birds {mine}/recordings --bundle {bundle} --out {mine}/birds",
        after_s=1.5,
        right=(0,),
    ),
)
