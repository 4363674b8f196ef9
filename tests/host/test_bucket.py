"""Folders in buckets: local copies, the order of uploads, and who holds a folder."""

import contextlib
import shutil

import buckets
import pytest

from alexnet_jax.host import bucket, mirror, paths
from alexnet_jax.host.bucket import Bucket, BucketError, HeldError, Lease

URL = "gs://a-bucket/runs/w"


@pytest.fixture(autouse=True)
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("ALEXNET_LEASE_SECONDS", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with buckets.served("a-bucket") as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        buckets.forget_copies()
        yield address
        buckets.forget_copies()


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Returns a function that reads a folder as another machine sees it."""

    def look(url=URL):
        monkeypatch.setenv(
            "XDG_CACHE_HOME", str(tmp_path / f"cache {len(list(tmp_path.glob('*')))}")
        )
        buckets.forget_copies()
        folder = paths.local(url, "--workdir")
        return {
            p.relative_to(folder).as_posix(): p.read_bytes()
            for p in folder.rglob("*")
            if p.is_file()
        }

    return look


@pytest.mark.parametrize("name", ["a.txt", "b/ü [0].txt", "b/c/with space", "b/#?&%2F.bin"])
def test_what_is_made_in_a_copy_is_seen_elsewhere(elsewhere, name):
    folder = paths.local(URL, "--workdir")
    with mirror.held(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\0one")
    assert elsewhere() == {name: b"\0one"}


def test_a_neighbour_whose_name_begins_alike_is_another_folder(elsewhere):
    for url in (URL, f"{URL}2"):
        folder = paths.local(url, "--workdir")
        with mirror.held(folder):
            (folder / "who").write_text(url)
    assert elsewhere() == {"who": URL.encode()}


def test_a_copy_becomes_what_the_bucket_has(elsewhere):
    folder = paths.local(URL, "--workdir")
    with mirror.held(folder):
        for name in ("same", "changed", "removed"):
            (folder / name).write_text("first")
    elsewhere()
    other = paths.local(URL, "--workdir")
    with mirror.held(other):
        (other / "changed").write_text("later")  # of the same length
        (other / "removed").unlink()
        (other / "new" / "one").parent.mkdir()
        (other / "new" / "one").write_text("")
    own = mirror.Mirror(URL)
    own.folder = folder
    (folder / "of a run that was killed").write_text("not in the bucket")
    own.pull()
    found = {
        p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()
    }
    assert found == {"same": "first", "changed": "later", "new/one": ""}


def test_what_seals_is_written_last_and_removed_first(monkeypatch):
    folder = paths.local(URL, "--workdir")
    done = []
    upload, delete = Bucket.upload, Bucket.delete
    monkeypatch.setattr(Bucket, "upload", lambda b, n, d: (done.append(n), upload(b, n, d)))
    monkeypatch.setattr(Bucket, "delete", lambda b, n, *g: (done.append(n), delete(b, n, *g)))
    step = folder / "checkpoints" / "5"
    with mirror.held(folder) as held:
        (step / "default").mkdir(parents=True)
        for name in ("digests.json", "commit_success.txt", "default/data", "default/z"):
            (step / name).write_text(name)
        for name in ("checkpoints.json", "metrics.jsonl"):
            (folder / name).write_text("{}")
        held.push()
        written, done[:] = done[:], []
        for path in (step / "digests.json", step / "default/data", step / "default/z"):
            path.unlink()
        held.push()
    sign = "checkpoints/5/changing"
    assert written[0] == sign and written.index("checkpoints/") < written.index("metrics.jsonl")
    assert written[-4:] == [
        "checkpoints/5/commit_success.txt",
        "checkpoints/5/digests.json",
        "checkpoints.json",
        sign,  # removed
    ]
    assert done[:2] == [sign, "checkpoints/5/digests.json"]
    assert done[-2:] == [sign, bucket.LEASE]
    assert sign not in Bucket(URL).list()


def test_a_checkpoint_that_a_kill_left_half_written_is_none(elsewhere, monkeypatch):
    folder = paths.local(URL, "--workdir")
    upload = Bucket.upload

    def dying(self, name, data):
        if name == "checkpoints/2/digests.json":
            raise BucketError("killed")
        upload(self, name, data)

    with pytest.raises(BucketError, match="killed"), mirror.held(folder) as held:
        for step in (1, 2):
            (folder / f"checkpoints/{step}").mkdir(parents=True)
            (folder / f"checkpoints/{step}/data").write_text("data")
            (folder / f"checkpoints/{step}/digests.json").write_text("seal")
            monkeypatch.setattr(Bucket, "upload", dying)
            held.push()
    monkeypatch.setattr(Bucket, "upload", upload)
    assert "checkpoints/2/data" in Bucket(URL).list()
    assert sorted(elsewhere()) == ["checkpoints/1/data", "checkpoints/1/digests.json"]
    # What the kill left is removed by whoever writes next.
    with mirror.held(paths.local(URL, "--workdir")):
        pass
    assert sorted(Bucket(URL).list()) == [
        *("checkpoints/", "checkpoints/1/data", "checkpoints/1/digests.json")
    ]


def step_of(folder, step):
    """Makes a checkpoint in a copy; its files' names sort before and after the seal's."""
    own = folder / "checkpoints" / str(step)
    (own / "default").mkdir(parents=True)
    for name in ("a", "commit_success.txt", "default/data", "default/z", "digests.json", "z"):
        (own / name).write_text(f"{name} of {step}")


@pytest.mark.parametrize("second", [0, 1, 4])
def test_a_kill_at_any_request_leaves_whole_checkpoints(monkeypatch, elsewhere, second):
    """A push uploads one and removes another; the next start, also killed, repairs the bucket."""
    upload, delete = Bucket.upload, Bucket.delete
    left = [0]

    def counted(action):
        def request(*arguments):
            if left[0] <= 0:
                raise BucketError("killed")
            left[0] -= 1
            action(*arguments)

        return request

    monkeypatch.setattr(Bucket, "upload", counted(upload))
    monkeypatch.setattr(Bucket, "delete", counted(delete))
    for kill in range(40):
        url = f"gs://a-bucket/runs/{kill}"
        folder, left[0] = paths.local(url, "--workdir"), 100
        with mirror.held(folder) as held:
            step_of(folder, 1)
            held.push()
        with contextlib.suppress(BucketError), mirror.held(folder) as held:
            step_of(folder, 2)
            shutil.rmtree(folder / "checkpoints" / "1")
            left[0] = kill
            held.push()
        ended = left[0] > 0
        for start in range(2):
            seen = set(elsewhere(url))
            steps = {name.split("/")[1] for name in seen if name.startswith("checkpoints/")}
            assert steps and steps <= {"1", "2"}, f"killed at {kill}, start {start}"
            for step in steps:
                own = {name for name in seen if name.startswith(f"checkpoints/{step}/")}
                assert len(own) == 6, f"killed at {kill}, start {start}: {sorted(own)}"
            delete(Bucket(url), bucket.LEASE)  # which ran out
            left[0] = second
            with contextlib.suppress(BucketError), mirror.held(paths.local(url, "--workdir")):
                pass
        if ended:
            break
    assert ended and kill > 12


def test_checkpoints_of_older_code_stay(elsewhere):
    """They have no seal, and neither has one that was moved aside because its seal was lost."""
    for name in ("checkpoints/7/data", "checkpoints/damaged_9/data", "metrics.jsonl"):
        Bucket(URL).upload(name, b"old")
    folder = paths.local(URL, "--workdir")
    with pytest.raises(ValueError, match="refused"), mirror.held(folder):
        raise ValueError("refused")
    with mirror.held(folder):
        (folder / "new").write_text("")
    assert {"checkpoints/7/data", "checkpoints/damaged_9/data"} < set(elsewhere())


def test_a_copy_that_was_removed_removes_nothing(elsewhere):
    folder = paths.local(URL, "--workdir")
    with mirror.held(folder):
        (folder / "rows").write_text("1")
    with pytest.raises(ValueError, match="killed"), mirror.held(folder):
        (folder / "rows").write_text("12")
        lease = Bucket(URL).read(bucket.LEASE)
        raise ValueError("killed")
    Bucket(URL).write_if(bucket.LEASE, lease, 0)  # as a kill leaves it
    (folder / mirror.MARK).write_bytes(lease)
    shutil.rmtree(folder.parents[2])
    buckets.forget_copies()
    with mirror.held(paths.local(URL, "--workdir")):
        pass
    assert elsewhere() == {"rows": b"12"}


def test_work_that_waits_outlives_a_start_that_fails(monkeypatch, elsewhere):
    folder = files_of(URL)
    with monkeypatch.context() as away:
        away.setattr(Bucket, "upload", refusing)
        with pytest.raises(BucketError, match="the network"), mirror.held(folder):
            (folder / "checkpoint").write_text("hours of work")
    for _ in range(2):
        buckets.forget_copies()
        assert files_of(URL) == folder
        with monkeypatch.context() as away:
            away.setattr(Bucket, "list", lambda self: refusing(self, "list"))
            with pytest.raises(BucketError, match="the network"), mirror.held(folder):
                pass
    with mirror.held(folder):
        pass
    assert elsewhere() == {"checkpoint": b"hours of work"}


def test_a_reader_beside_a_run_writes_only_what_it_made(elsewhere):
    folder = paths.local(URL, "--workdir")
    with mirror.held(folder):
        (folder / "metrics.jsonl").write_text("rows")
        (folder / "checkpoints.json").write_text("{}")
        buckets.forget_copies()  # as in another process of this machine
        assert files_of(URL) == folder
        (folder / "report.html").write_text("page")
        mirror.write_back()
        assert sorted(Bucket(URL).list()) == ["lease", "report.html"]


def test_a_lost_answer_to_a_renewal_ends_no_run(monkeypatch):
    held = Lease(Bucket(URL))
    from google.cloud.storage import Blob

    upload = Blob.upload_from_string

    def twice(self, data, **options):
        upload(self, data, **options)
        return upload(self, data, **options)  # refused: the first upload has changed the generation

    with monkeypatch.context() as losing:
        losing.setattr(Blob, "upload_from_string", twice)
        for _ in range(2):
            before = Bucket(URL).generation(bucket.LEASE)
            held.renew()
            assert Bucket(URL).generation(bucket.LEASE) > before
    held.release()
    assert bucket.LEASE not in Bucket(URL).list()


def test_a_folder_that_is_emptied_and_made_again_is_there(elsewhere):
    folder = paths.local(URL, "--workdir")
    with mirror.held(folder) as held:
        for _ in range(2):
            (folder / "checkpoints").mkdir()
            held.push()
            assert "checkpoints/" in Bucket(URL).list()
            (folder / "checkpoints").rmdir()
            held.push()


@pytest.mark.parametrize("name", ["v1.2", "lr=0.01", "run.final"])
def test_a_new_folder_may_have_a_dot_in_its_name(elsewhere, name):
    url = f"gs://a-bucket/runs/{name}"
    folder = paths.local(url, "--workdir")
    with mirror.held(folder) as held:
        assert held is not None
        (folder / "rows").write_text("1")
    assert elsewhere(url) == {"rows": b"1"}


def test_what_is_written_beside_a_file_goes_too(elsewhere):
    out = paths.local("gs://a-bucket/pictures/split.svg", "--out")
    out.write_text("<svg/>")
    out.with_suffix(".png").write_text("png")
    mirror.write_back()
    assert set(elsewhere("gs://a-bucket/pictures")) == {"split.svg", "split.png"}


@pytest.mark.parametrize(
    "url", ["gs://", "gs:///w", "gs://b//w", "gs://b/../w", "gs://b/./w", "gs://b/w\0", "gs://b_/w"]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(BucketError, match="gs://"):
        paths.local(url, "--workdir")


@pytest.mark.parametrize("seconds", ["forty", "0", "-1", "nan", "1e9"])
def test_a_lease_of_no_time_is_refused(monkeypatch, seconds):
    monkeypatch.setenv("ALEXNET_LEASE_SECONDS", seconds)
    with pytest.raises(BucketError, match="ALEXNET_LEASE_SECONDS: .* must be seconds"):
        Lease(Bucket(URL))


def test_a_lease_is_waited_for_as_long_as_it_says(monkeypatch):
    monkeypatch.setenv("ALEXNET_LEASE_SECONDS", "8")
    held = Lease(Bucket(URL))  # renewed every two
    monkeypatch.setenv("ALEXNET_LEASE_SECONDS", "1")
    with pytest.raises(HeldError):
        Lease(Bucket(URL))
    held.release()


def test_what_is_half_done_is_not_written(elsewhere):
    folder = paths.local(URL, "--workdir")
    with mirror.held(folder):
        for name in ("lock", "metrics.jsonl.tmp", "checkpoints/3.unsealed/data", "x.part-12"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("half")
    assert elsewhere() == {}


def test_a_file_of_a_bucket_is_read_and_written_by_its_name(elsewhere):
    out = paths.local("gs://a-bucket/pictures/split.svg", "--out")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("<svg/>")
    mirror.write_back()
    elsewhere()
    assert paths.local("gs://a-bucket/pictures/split.svg", "--out").read_text() == "<svg/>"


def test_who_only_looks_writes_no_checkpoint_and_removes_nothing(elsewhere):
    folder = paths.local(URL, "--workdir")
    with mirror.held(folder):
        (folder / "config.json").write_text("{}")
    elsewhere()
    reader = paths.local(URL, "--workdir")
    (reader / "config.json").unlink()
    for name in ("plots/kernels.png", "checkpoints/7/digests.json"):
        (reader / name).parent.mkdir(parents=True)
        (reader / name).write_text("made here")
    mirror.write_back()
    assert sorted(n for n in elsewhere()) == ["config.json", "plots/kernels.png"]


def test_one_process_holds_a_folder_on_whatever_machine():
    held = Lease(Bucket(URL))
    with pytest.raises(HeldError, match="another process works there"):
        Lease(Bucket(URL))
    held.release()
    Lease(Bucket(URL)).release()


def test_a_lease_that_a_kill_left_runs_out():
    Bucket(URL).write_if(bucket.LEASE, b"killed", 0)
    Lease(Bucket(URL)).release()
    assert bucket.LEASE not in Bucket(URL).list()


def test_who_lost_the_lease_writes_no_more():
    folder = paths.local(URL, "--workdir")
    with pytest.raises(HeldError), mirror.held(folder) as held:
        other = Bucket(URL)
        other.write_if(bucket.LEASE, b"another", other.generation(bucket.LEASE))
        (folder / "late").write_text("late")
        held.push()
    assert "late" not in Bucket(URL).list()


@pytest.mark.parametrize("meanwhile", [False, True])
def test_what_could_not_be_written_goes_at_the_next_start(
    monkeypatch, elsewhere, capsys, meanwhile
):
    """Unless another machine has worked there since."""
    folder = files_of(URL)
    with monkeypatch.context() as away:
        away.setattr(Bucket, "upload", refusing)
        with pytest.raises(BucketError, match="the network"), mirror.held(folder):
            (folder / "checkpoint").write_text("hours of work")
    if meanwhile:
        with monkeypatch.context() as other:
            other.setenv("XDG_CACHE_HOME", str(folder.parents[5] / "another"))
            buckets.forget_copies()
            with mirror.held(files_of(URL)):
                pass
    buckets.forget_copies()
    assert files_of(URL) == folder and (folder / "checkpoint").exists() != meanwhile
    with mirror.held(folder):
        assert (folder / "checkpoint").exists() != meanwhile
    assert ("checkpoint" in elsewhere()) != meanwhile


def refusing(self, name, *_):
    raise BucketError(f"{name}: the network is away")


def files_of(url):
    return paths.local(url, "--workdir")


def test_the_first_failure_is_told(monkeypatch, capsys):
    folder = files_of(URL)
    with pytest.raises(ValueError, match="first"), mirror.held(folder):
        monkeypatch.setattr(Bucket, "upload", refusing)
        (folder / "new").write_text("x")
        raise ValueError("first")
    assert "warning: " in capsys.readouterr().err


def test_a_server_that_is_gone_is_one_line(monkeypatch):
    monkeypatch.setattr(bucket, "GIVE_UP_AFTER", 1.0)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(BucketError, match=r"^gs://a-bucket/runs/w: .*; is the network there"):
        paths.local(URL, "--workdir")


def test_a_bucket_that_does_not_exist_is_named():
    with pytest.raises(BucketError, match=r"^gs://no-such-bucket/x: is not there$"):
        paths.local("gs://no-such-bucket/x", "--workdir")


@pytest.mark.parametrize("url", ["s3://b/w", "az://b/w", "https://b/w", "file:///w"])
def test_other_kinds_are_refused_in_a_line(url):
    with pytest.raises(paths.PathError, match="neither on this machine's disks nor gs://"):
        paths.local(url, "--workdir")


def test_names_that_lead_elsewhere_are_refused():
    Bucket("gs://a-bucket").upload("runs/w/../../escaped", b"x")
    with pytest.raises(BucketError, match="cannot be a file's name"):
        paths.local(URL, "--workdir")
