import hashlib
import itertools
import json
import shutil

import grain
import numpy as np
import pytest

from massformer_jax.data import pipeline
from massformer_jax.data.bad_records import BadRecords
from massformer_jax.data.images import ImageError, decode_image, decode_mask, encode_mask
from massformer_jax.data.pipeline import (
    PipelineError,
    eval_examples,
    open_split,
    stream_position,
    train_dataset,
)
from massformer_jax.errors import InputError

TRAIN = {"train": 7, "validation": 3, "test": 1}
SETTINGS = {
    "batch_size": 4,
    "seed": 3,
    "crop_size": 96,
    "short_edges": (128, 192, 256),
    "max_long_edge": 300,
    "num_threads": 2,
}


def digest(array):
    """Returns a hash of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def digests(batch):
    """Returns a digest per crop, of its image and label map together."""
    return [digest(i) + digest(c) for i, c in zip(batch["image"], batch["label"], strict=True)]


def crops(data_dir, steps, **changes):
    """Returns the digests of the first crops in their order, [steps][b]."""
    batches = itertools.islice(iter(train_dataset(data_dir, **{**SETTINGS, **changes})), steps)
    return [digests(batch) for batch in batches]


def test_batches_have_the_promised_form(data_dir):
    dataset = train_dataset(data_dir, **SETTINGS)
    assert isinstance(dataset, grain.IterDataset)
    batch = next(iter(dataset))
    assert batch.keys() == {"image", "label"}
    assert batch["image"].shape == (4, 96, 96, 3) and batch["image"].dtype == np.uint8
    assert batch["label"].shape == (4, 96, 96) and batch["label"].dtype == np.uint8
    assert set(np.unique(batch["label"])) <= {0, 1, 2, 3, 4, 5, 6, 255}


def test_threads_change_nothing_and_the_seed_everything(data_dir):
    reference = crops(data_dir, 5)
    assert crops(data_dir, 5, num_threads=0) == reference
    assert crops(data_dir, 5, num_threads=5) == reference
    other = crops(data_dir, 5, seed=4)
    assert not set(itertools.chain(*other)) & set(itertools.chain(*reference))


def test_resume_is_exact(data_dir):
    reference = crops(data_dir, 9)
    iterator = iter(train_dataset(data_dir, **SETTINGS))
    for _ in range(3):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    assert state == {"next_index": 12}  # crops delivered, not crops prepared ahead
    resumed = iter(train_dataset(data_dir, **{**SETTINGS, "num_threads": 3}))
    next(resumed)
    resumed.set_state(state)
    assert [digests(batch) for batch in itertools.islice(resumed, 6)] == reference[3:]


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_see_what_one_host_sees(data_dir, hosts):
    reference = crops(data_dir, 6)
    shares = [crops(data_dir, 6, host_index=host, host_count=hosts) for host in range(hosts)]
    for step in range(6):
        assert all(len(share[step]) == 4 // hosts for share in shares)
        together = list(itertools.chain(*(share[step] for share in shares)))
        assert together == reference[step]  # one host after the other, as in the global batch
        assert len(set(together)) == 4


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (4, 2), (2, 4)])
def test_resume_on_another_number_of_hosts_is_exact(data_dir, before, after):
    # The crops of each step over all hosts are those of a run that was never stopped.
    reference = [sorted(step) for step in crops(data_dir, 7)]

    def hosts(count, step):
        iterators = [
            iter(train_dataset(data_dir, **SETTINGS, host_index=host, host_count=count))
            for host in range(count)
        ]
        state = stream_position(step, batch_size=4, host_count=count)
        for iterator in iterators:
            assert iterator.get_state().keys() == state.keys()
            iterator.set_state(state)
        return iterators

    def steps(iterators, count):
        return [
            sorted(itertools.chain(*(digests(next(iterator)) for iterator in iterators)))
            for _ in range(count)
        ]

    first = hosts(before, 0)
    assert steps(first, 3) == reference[:3]
    assert [it.get_state() for it in first] == before * [
        stream_position(3, batch_size=4, host_count=before)
    ]
    assert steps(hosts(after, 3), 4) == reference[3:]


@pytest.mark.parametrize("exact", [True, False])
def test_several_crops_of_one_decoding(data_dir, exact):
    dataset = train_dataset(data_dir, **SETTINGS, crops_per_decode=2, exact=exact)
    iterator = iter(dataset)
    batches = [next(iterator) for _ in range(4)]
    assert batches[0]["image"].shape == (4, 96, 96, 3)
    assert batches[0]["label"].shape == (4, 96, 96)
    assert len(set(itertools.chain(*map(digests, batches)))) == 16
    state = stream_position(2, batch_size=4, host_count=1, crops_per_decode=2)
    assert state == {"next_index": 4}  # photographs
    iterator.set_state(state)
    assert digests(next(iterator)) == digests(batches[2])
    with pytest.raises(PipelineError, match=r"hosts times 3 crops per photograph; .* 6$"):
        train_dataset(data_dir, **SETTINGS, crops_per_decode=3, host_count=2)


def damage(monkeypatch, broken):
    """Breaks some records of the training split.

    Args:
        monkeypatch: the fixture.
        broken: for the numbers of records, what is broken: "reader", "label", "photograph" or
            "size".
    """

    class Broken:
        def __init__(self, records):
            self.records = records

        def __len__(self):
            return len(self.records)

        def __getitem__(self, number):
            record = dict(self.records[number])
            how = broken.get(number)
            if how == "reader":
                raise RuntimeError("crc mismatch")
            if how == "label":
                record["segmentation_mask"] = record["segmentation_mask"][:-50]
            if how == "photograph":
                record["image"] = record["image"][:-50]
            if how == "size":
                label = decode_mask(record["segmentation_mask"])
                record["segmentation_mask"] = encode_mask(label[:-1].copy())
            return record

    opened = pipeline.open_split
    monkeypatch.setattr(pipeline, "open_split", lambda *args: Broken(opened(*args)))


@pytest.mark.parametrize("how", ["reader", "label", "photograph"])
def test_a_bad_record_is_replaced_by_the_next_one(data_dir, monkeypatch, caplog, how):
    settings = {**SETTINGS, "on_bad_record": "skip", "max_bad_share": 0.2}
    undamaged = crops(data_dir, 7, **settings)
    name = open_split(data_dir, "train")[3]["file_name"].decode()
    damage(monkeypatch, {3: how})
    with caplog.at_level("WARNING"):
        replaced = crops(data_dir, 7, **settings)
    # 28 crops are four epochs of seven. One crop per epoch is another one, all others are the same.
    pairs = zip(itertools.chain(*undamaged), itertools.chain(*replaced), strict=True)
    changed = [before != after for before, after in pairs]
    assert [sum(changed[i : i + 7]) for i in range(0, 28, 7)] == [1, 1, 1, 1]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1  # one for all epochs
    assert ("record 3 of the split" if how == "reader" else name) in messages[0]
    assert messages[0].endswith("(bad record 1 of 7)")
    # The stream is the same if it is resumed behind the bad record, or read by other threads.
    iterator = iter(train_dataset(data_dir, **{**settings, "num_threads": 0}))
    iterator.set_state(stream_position(4, batch_size=4, host_count=1))
    assert [digests(next(iterator)) for _ in range(3)] == replaced[4:]


def test_too_many_bad_records_stop_the_run(data_dir, monkeypatch):
    damage(monkeypatch, {1: "photograph", 2: "label", 6: "reader"})
    settings = {**SETTINGS, "on_bad_record": "skip"}
    assert len(crops(data_dir, 7, **settings, max_bad_share=3 / 7)) == 7
    with pytest.raises(InputError, match=r"^3 of 7 records are bad, more than 30 %: the last was "):
        crops(data_dir, 7, **settings, max_bad_share=0.3)
    with pytest.raises(InputError, match=r"^1 of 7 records are bad, more than 1 %"):
        crops(data_dir, 7, **settings)


def test_a_bad_record_fails_by_default(data_dir, monkeypatch):
    damage(monkeypatch, {0: "size"})
    with pytest.raises(ImageError, match=r"\.jpg: the photograph is .*, its label map "):
        crops(data_dir, 2)
    with pytest.raises(InputError, match="on_bad_record='ignore' is unknown; take 'skip' or 'fa"):
        crops(data_dir, 1, on_bad_record="ignore")


@pytest.mark.parametrize("how", ["reader", "label", "photograph", "size"])
def test_an_evaluation_leaves_a_bad_record_out_and_names_it(data_dir, monkeypatch, how):
    undamaged = [example["file_name"] for example in eval_examples(data_dir, split="train")]
    damage(monkeypatch, {3: how, 5: how})
    for host in range(2):
        bad_records = BadRecords(7, "skip", 1.0)
        examples = eval_examples(
            data_dir, split="train", host_index=host, host_count=2, bad_records=bad_records
        )
        names = [example["file_name"] for example in examples]
        assert names == [undamaged[i] for i in range(host, 7, 2) if i not in (3, 5)]
        expected = [] if host == 0 else [3, 5]
        for number, message in zip(expected, bad_records.messages, strict=True):
            assert (f"record {number} of" if how == "reader" else undamaged[number]) in message
    for policy in (None, BadRecords(7, "fail", 1.0)):
        with pytest.raises(InputError, match=r"record 3 of" if how == "reader" else undamaged[3]):
            list(eval_examples(data_dir, split="train", bad_records=policy))


def test_nothing_but_bad_records_ends(data_dir, monkeypatch):
    damage(monkeypatch, dict.fromkeys(range(7), "reader"))
    with pytest.raises(PipelineError, match="no record of the split can be read"):
        crops(data_dir, 1, on_bad_record="skip", max_bad_share=1.0)


def test_each_epoch_sees_every_photograph_once_in_a_new_order(data_dir, monkeypatch):
    number = {
        digest(decode_mask(record["segmentation_mask"])): index
        for index, record in enumerate(open_split(data_dir, "train"))
    }
    assert len(number) == 7

    def name_only(self, element, rng):
        index = number[digest(decode_mask(element["segmentation_mask"]))]
        image = np.full((8, 8, 3), index, np.uint8)
        return [{"image": image, "label": np.zeros((8, 8), np.uint8)}]

    monkeypatch.setattr(pipeline.ResizedCrop, "random_map", name_only)
    monkeypatch.setattr(pipeline.transforms.PhotometricDistortion, "random_map", lambda s, e, r: e)
    settings = {**SETTINGS, "batch_size": 7, "crop_size": 8, "short_edges": (8,)}
    stream = iter(train_dataset(data_dir, **settings))
    epochs = [next(stream)["image"][:, 0, 0, 0].tolist() for _ in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_an_odd_batch_is_refused(data_dir):
    with pytest.raises(PipelineError, match="batch_size=4 cannot be shared by 3 hosts; take a mul"):
        train_dataset(data_dir, **SETTINGS, host_count=3)
    with pytest.raises(PipelineError, match="batch_size=0"):
        train_dataset(data_dir, **{**SETTINGS, "batch_size": 0})


@pytest.mark.parametrize("hosts", [1, 2, 5])
def test_evaluation_sees_every_photograph_once(data_dir, release_dir, hosts):
    examples = [
        example
        for host in range(hosts)
        for example in eval_examples(
            data_dir, split="validation", host_index=host, host_count=hosts, num_threads=2
        )
    ]
    images = release_dir / "images" / "val"
    names = [example["file_name"] for example in examples]
    assert sorted(names) == sorted(path.name for path in images.iterdir())
    for example in examples:
        np.testing.assert_array_equal(example["image"], decode_image(images / example["file_name"]))
        mask = (release_dir / "annotations" / "val" / example["file_name"]).with_suffix(".png")
        np.testing.assert_array_equal(example["label"], decode_mask(mask))


def test_splits_can_be_sliced(data_dir):
    assert {split: len(open_split(data_dir, split)) for split in TRAIN} == TRAIN
    assert len(open_split(data_dir, "train[:3]")) == 3


def test_no_dataset_is_one_line_with_the_command(tmp_path):
    unfinished = tmp_path / "mass13k" / "incomplete.A1B2C3_1.0.0"
    unfinished.mkdir(parents=True)
    (unfinished / "dataset_info.json").write_text("{}")
    with pytest.raises(PipelineError) as error:
        eval_examples(tmp_path, split="train")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}: no mass13k dataset; build it with")
    assert f"massformer_jax.data.build --manual_dir RELEASE --data_dir {tmp_path}" in str(
        error.value
    )


def test_the_newest_version_is_read(data_dir, tmp_path):
    for version in ("1.1.0", "0.9.0"):
        shutil.copytree(data_dir / "mass13k" / "1.1.0", tmp_path / "mass13k" / version)
    (tmp_path / "mass13k" / "0.9.0" / "mass13k-train.array_record-00000-of-00001").unlink()
    assert len(open_split(tmp_path, "train")) == 7


def test_no_such_split_names_those_there_are(data_dir):
    with pytest.raises(PipelineError, match=r"no split 'val'; it has train, validation, test$"):
        train_dataset(data_dir, **SETTINGS, split="val")


def test_a_damaged_record_is_named():
    record = {"image": b"\xff\xd8\xff", "segmentation_mask": b"", "file_name": b"a.jpg"}
    with pytest.raises(ImageError, match=r"^a\.jpg: the JPEG is truncated"):
        pipeline.Decode().map(record)
