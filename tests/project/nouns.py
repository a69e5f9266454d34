"""The words of `knows no …`: what a module that says so must neither import nor call."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ban:
    """Modules, with all that is in them, and calls by the name that is called.

    `but` is what may be imported of these all the same: a constant, a type, a plain function.
    """

    imports: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    but: tuple[str, ...] = ()


def _ban(imports: str, calls: str = "", but: str = "") -> Ban:
    return Ban(tuple(imports.split()), tuple(calls.split()), tuple(but.split()))


_SQL = "sqlite3 sqlite_utils"
_RUNTIMES = "onnxruntime openvino tensorrt tensorrt_rtx torch_tensorrt cuda"
_NETWORKS = f"""{_RUNTIMES} timm torchvision torch.nn.Module edge.engines edge.speech
    edge.analysis.recognizer trainer.networks.model trainer.networks.checkpoint
    trainer.student.student"""
_DECODERS = "soundfile sounddevice soxr librosa edge.capture.recording edge.capture.native_sound"
_SOUND = f"""{_DECODERS} edge.capture.microphone edge.capture.portaudio edge.capture.mix edge.speech
    edge.contract.audio.WindowCutter edge.contract.audio.mel_image edge.contract.audio.mel_images"""
_CARDS = "sounddevice edge.capture.microphone edge.capture.portaudio"
_TRAINING = "trainer.training trainer.training.member trainer.training.fit"
_LABELS = """edge.contract.labels trainer.corpus.recordings.Corpus trainer.corpus.soundscapes.LABELS
    trainer.corpus.soundscapes.read_soundscapes trainer.corpus.soundscapes.Soundscape
    export.adopt.labels"""
_FILE_CALLS = """open fdopen read_text read_bytes write_text write_bytes unlink mkdir rmdir touch
    iterdir glob rglob stat lstat exists is_file is_dir symlink_to hardlink_to rmtree copyfile
    replacing save savez savez_compressed savetxt loadtxt fromfile tofile imread"""

# The word for one of a thing; the plural is taken for the same.
BANS = {
    "augmentation": _ban("trainer.training.augment"),
    "bird": _ban(
        """edge.contract.taxonomy edge.contract.bundle edge.contract.labels edge.contract.blend
            edge.analysis edge.engines edge.prior trainer.demo.fauna trainer.demo.song""",
    ),
    "blend": _ban(
        "edge.contract.blend trainer.tuning.blend_search",
        but="edge.contract.blend.Scores",
    ),
    "broker": _ban("paho edge.publisher.link edge.publisher.session edge.publisher.thread"),
    "bundle": _ban("edge.contract.bundle export.assemble export.place_bundle"),
    "card": _ban(_CARDS),
    "clip": _ban("edge.clips edge.store.clips"),
    "clock": _ban("time edge.host.clock"),
    "codec": _ban("edge.capture.streams"),
    "command line": _ban("typer argparse sys.argv edge.__main__ trainer.__main__ export.__main__"),
    "connection": _ban("paho socket ssl edge.publisher.link edge.publisher.session"),
    "container": _ban(
        "edge.capture.container edge.capture.container_layout edge.capture.sound_parts"
    ),
    "corpus": _ban(
        """trainer.corpus.recordings trainer.corpus.soundscapes trainer.corpus.folds
            trainer.corpus.tables trainer.corpus.check""",
    ),
    "data": _ban("trainer.corpus trainer.training.dataset trainer.training.batches"),
    "database": _ban(f"{_SQL} edge.store"),
    "device": _ban("torch.cuda cuda edge.engines.device edge.engines.cuda"),
    "disk": _ban("shutil tempfile", _FILE_CALLS),
    "engine": _ban(f"{_RUNTIMES} edge.engines.onnx edge.engines.openvino edge.engines.tensorrt"),
    "file": _ban("soundfile shutil tempfile", _FILE_CALLS),
    "geotiff": _ban("rasterio trainer.place.rasters"),
    "health": _ban("edge.daemon.health edge.daemon.vitals"),
    "html": _ban("html jinja2 trainer.report.page edge.reports.page"),
    "image": _ban(
        """trainer.corpus.spectrograms edge.contract.audio.mel_image
            edge.contract.audio.mel_images""",
    ),
    "label": _ban(_LABELS),
    "loss": _ban("torch.nn.functional trainer.training"),
    "microphone": _ban(_CARDS),
    "mixing": _ban("edge.capture.mix"),
    "model": _ban(f"{_NETWORKS} catboost sklearn trainer.place.trees trainer.place.placenets"),
    "mqtt": _ban("paho edge.publisher.link edge.publisher.session edge.publisher.thread"),
    "neighbour": _ban("trainer.place.neighbours edge.prior.nearby"),
    "network": _ban(_NETWORKS, but="edge.speech.listener.RUN_SAMPLES"),
    "noise": _ban("trainer.demo.acoustics"),
    "onnx": _ban("onnx onnxruntime onnxscript"),
    "onnx runtime": _ban("onnxruntime"),
    "outbox": _ban("edge.store.outbox"),
    "page": _ban("html jinja2 trainer.report.page edge.reports.page edge.reports.pictures"),
    "place": _ban("trainer.demo.world trainer.demo.layers trainer.demo.fauna"),
    "process": _ban("multiprocessing subprocess concurrent.futures os trainer.workers"),
    "raster": _ban("rasterio trainer.place.rasters trainer.place.raster_check"),
    "recipe": _ban("trainer.recipe"),
    "record": _ban(f"{_SQL} edge.store"),
    "recording": _ban("edge.capture.recording trainer.corpus.recordings trainer.demo.recordings"),
    "resampling": _ban("soxr librosa"),
    "run": _ban("trainer.run"),
    "sample": _ban("numpy soundfile sounddevice"),
    "score": _ban(
        "edge.contract.metrics trainer.metrics edge.reports.score trainer.tuning",
        but="""edge.contract.metrics.Labels edge.contract.metrics.labels_of
            edge.contract.metrics.NOCALL_ROW""",
    ),
    "service": _ban("edge.host.notify"),
    "setting": _ban("edge.config yaml"),
    "sound": _ban(
        _SOUND,
        but="edge.capture.recording.record_name edge.speech.listener.RUN_SAMPLES",
    ),
    "soundscape": _ban("trainer.corpus.soundscapes trainer.tuning.soundscape_scores"),
    "source": _ban("edge.capture edge.daemon edge.replay"),
    "source of sound": _ban(
        "edge.capture edge.daemon.source edge.daemon.live_microphone edge.daemon.watched_folder"
    ),
    "species": _ban("edge.contract.taxonomy trainer.demo.fauna"),
    "sql": _ban(f"{_SQL} edge.store.connection"),
    "station": _ban(
        "edge.daemon.station edge.daemon.live_microphone edge.daemon.watched_folder edge.__main__"
    ),
    "store": _ban(f"{_SQL} edge.store"),
    "student": _ban("trainer.student.student trainer.student.distil"),
    "table": _ban("csv pandas rich.table edge.store.schema trainer.corpus.tables"),
    "tensorrt": _ban("tensorrt tensorrt_rtx torch_tensorrt edge.engines.tensorrt export.trt"),
    "thread": _ban("threading queue concurrent.futures edge.daemon.threads"),
    "threshold": _ban(
        "trainer.tuning.thresholds trainer.tuning.sweep",
        but="trainer.tuning.sweep.LabelledRows",
    ),
    "time": _ban("datetime time zoneinfo"),
    "training": _ban(_TRAINING, but="trainer.training.history"),
    "wall-clock time": _ban("datetime zoneinfo edge.host.clock", "time now today"),
    "window": _ban(
        """edge.contract.audio.Window edge.contract.audio.WindowCutter
            edge.contract.audio.WINDOW_SAMPLES edge.contract.audio.HOP_SAMPLES""",
    ),
    "window cutter": _ban("edge.contract.audio.WindowCutter"),
    "zone": _ban("zoneinfo edge.contract.local_clock"),
}

# Things that are not known even by way of other modules.
FAR = frozenset(
    {
        "broker",
        "card",
        "command line",
        "connection",
        "database",
        "engine",
        "geotiff",
        "health",
        "html",
        "microphone",
        "model",
        "mqtt",
        "network",
        "onnx",
        "onnx runtime",
        "outbox",
        "page",
        "raster",
        "record",
        "service",
        "tensorrt",
        "training",
    }
)

# Nothing imported shows whether these are known; only who reads the module can tell. Indirect
# questions (`knows nothing of how birds sound`) need no entry.
READERS = frozenset(
    {
        "contents of entries",
        "key",
        "names of gaps",
        "output rate",
        "block",
        "class of the station",
        "clock itself",
        "column's meaning",
        "damage",
        "files of a run but its own",
        "label's meaning",
        "layout of a folder",
        "line's meaning",
        "malformed row",
        "meaning",
        "name",
        "names of files",
        "other recording",
        "probability",
        "rate but the file's",
        "rate that is wanted",
        "recorder",
        "sound beyond the voice that it hands out",
        "source of it",
        "suffix of sound",
        "table by name",
        "table's meaning",
        "text's meaning",
        "words for the record",
        "work",
    }
)
