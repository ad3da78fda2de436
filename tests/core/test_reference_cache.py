"""What the cache gives back is what the reference computed for that row, or an error."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image

from aspo_plugin.reference_cache.fill import fill
from aspo_plugin.reference_cache.keys import media_digest, row_keys
from aspo_plugin.reference_cache.store import ReferenceCache, ReferenceCacheError
from tests.core.test_shared_prefix import language_model, token_batch
from tests.support.pairs import picture, plain_logps

MADE_WITH = {"model": "a", "adapter": "none", "dtype": "float32"}
NO_MEDIA = [media_digest()] * 6


def batch(seed=0):
    inputs, wanted = token_batch(seed=seed)
    keys = row_keys(inputs["input_ids"], inputs["attention_mask"], wanted, NO_MEDIA)
    values = torch.where(wanted, -torch.rand(wanted.shape), 0.0)
    return keys, values, wanted


def test_rows_come_back_over_runs_and_in_any_batch(tmp_path):
    cache = ReferenceCache.open(tmp_path / "cache", MADE_WITH)
    assert len(cache) == 0
    keys, values, wanted = batch()
    assert cache.lookup(keys, wanted) is None
    cache.store(keys[:4], values[:4], wanted[:4])
    assert cache.lookup(keys, wanted) is None
    cache.store(keys, values, wanted)
    assert len(cache) == 6
    for again in (cache, ReferenceCache.open(tmp_path / "cache", MADE_WITH)):
        assert torch.equal(again.lookup(keys, wanted), values)
        order = [5, 2, 0, 1, 4, 3]
        assert torch.equal(again.lookup([keys[i] for i in order], wanted[order]), values[order])
    wider = torch.nn.functional.pad(wanted, (3, 2))
    assert torch.equal(cache.lookup(keys, wider), torch.nn.functional.pad(values, (3, 2)))


def test_the_first_value_of_a_row_stays(tmp_path):
    cache = ReferenceCache.open(tmp_path, MADE_WITH)
    keys, values, wanted = batch()
    cache.store(keys, values, wanted)
    cache.store(keys, values - 1, wanted)
    assert torch.equal(cache.lookup(keys, wanted), values)


def test_values_are_read_through_a_memory_map(tmp_path):
    cache = ReferenceCache.open(tmp_path, MADE_WITH)
    keys, values, wanted = batch()
    cache.store(keys, values, wanted)
    cache.lookup(keys, wanted)
    assert all(isinstance(values, np.memmap) for values in cache._maps.values())


@pytest.mark.parametrize("cut", [(".index", 5), (".values", 3)])
def test_a_killed_writer_leaves_whole_rows(tmp_path, cut):
    cache = ReferenceCache.open(tmp_path, MADE_WITH)
    keys, values, wanted = batch()
    for row in range(6):
        cache.store(keys[row : row + 1], values[row : row + 1], wanted[row : row + 1])
    (file,) = tmp_path.glob(f"*{cut[0]}")
    file.write_bytes(file.read_bytes()[: -cut[1]])
    again = ReferenceCache.open(tmp_path, MADE_WITH)
    assert len(again) == 5
    assert torch.equal(again.lookup(keys[:5], wanted[:5]), values[:5])
    assert again.lookup(keys, wanted) is None
    again.store(keys, values, wanted)
    assert torch.equal(ReferenceCache.open(tmp_path, MADE_WITH).lookup(keys, wanted), values)


def _flip(file, place):
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


DAMAGE = {
    "a value": (".values", lambda file: _flip(file, 9)),
    "the end of the values": (".values", lambda file: file.write_bytes(file.read_bytes()[:-3])),
    "all values": (".values", lambda file: file.unlink()),
    "a key": (".index", lambda file: _flip(file, 3)),
    "a place": (".index", lambda file: _flip(file, 40 + 18)),
    "a checksum": (".index", lambda file: _flip(file, 40 + 29)),
    "the end of the index": (".index", lambda file: file.write_bytes(file.read_bytes()[:-50])),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_met_at_the_start_and_mended(tmp_path, kind):
    """What a run finds broken is computed anew before it trains; all else stays, and nothing is deleted."""
    model = language_model("Llama")
    fill_from(tmp_path, model)
    suffix, damage = DAMAGE[kind]
    (file,) = tmp_path.glob(f"*{suffix}")
    damage(file)
    before = {path.name for path in tmp_path.iterdir() if path.suffix in (".values", ".index")}
    cache, calls = fill_from(tmp_path, model)
    # The first batch is always computed, to check what is there.
    assert set(calls) == ({0, 1, 2, 3} if kind == "all values" else {0, 3} if "end" in kind else {0})
    for keys, wanted, compute in batches(model):
        assert torch.equal(cache.lookup(keys, wanted), compute().detach())
    after = {path.with_suffix("").name for path in tmp_path.iterdir()}
    assert {name.split(".")[0] for name in before} <= after
    assert fill_from(tmp_path, model)[1] == [0]


def test_a_damaged_cache_is_not_complete(tmp_path):
    """A run that resumes, and has no reference to compute with, stops at its start."""
    model = language_model("Llama")
    fill_from(tmp_path, model)
    assert ReferenceCache.open(tmp_path, MADE_WITH).is_complete("train")
    (file,) = tmp_path.glob("*.index")
    file.write_bytes(file.read_bytes()[:-40])  # a whole record: nothing but the count tells
    assert not ReferenceCache.open(tmp_path, MADE_WITH).is_complete("train")


def test_damage_of_one_writer_leaves_the_others_rows(tmp_path, caplog):
    """Also in a process that had seen the damaged rows before; no set is complete any more."""
    filled = [(ReferenceCache.open(tmp_path, MADE_WITH), batch(seed)) for seed in range(2)]
    for cache, (keys, values, wanted) in filled:
        cache.store(keys, values, wanted)
    (own, (mine, values, wanted)), (other, (theirs, *_)) = filled
    own.refresh()
    own.mark_complete("train")
    damaged = tmp_path / f"{other._writer}.index"
    _flip(damaged, 3)  # the key of its first row
    own.refresh()
    assert f"1 of 6 rows in {damaged} are damaged" in caplog.text and "damaged is no longer" in caplog.text
    for cache in (own, ReferenceCache.open(tmp_path, MADE_WITH)):
        assert len(cache) == 11 and theirs[0] not in cache
        assert torch.equal(cache.lookup(mine, wanted), values)
        assert all(key in cache for key in theirs[1:])
        assert not cache.is_complete("train")


def test_damage_while_a_run_reads_is_an_error(tmp_path):
    cache = ReferenceCache.open(tmp_path, MADE_WITH)
    keys, values, wanted = batch()
    cache.store(keys, values, wanted)
    (file,) = tmp_path.glob("*.values")
    _flip(file, 9)
    with pytest.raises(ReferenceCacheError, match="changed while this run used them. Start it again"):
        cache.lookup(keys, wanted)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2}', '{"fingerprint": 3}'])
def test_a_broken_record_of_what_it_was_made_with_is_one_message(tmp_path, text):
    ReferenceCache.open(tmp_path, MADE_WITH)
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(ReferenceCacheError, match=r"meta.json is empty or damaged.*delete the folder"):
        ReferenceCache.open(tmp_path, MADE_WITH)


def test_rows_are_on_the_disk_before_a_set_is_called_complete(tmp_path, monkeypatch):
    from aspo_plugin.reference_cache import store

    order, real = [], store.os.fsync

    def fsync(number):
        order.append("fsync")
        real(number)

    marked = ReferenceCache.mark_complete
    monkeypatch.setattr(store.os, "fsync", fsync)
    monkeypatch.setattr(
        ReferenceCache, "mark_complete", lambda self, name: (order.append("complete"), marked(self, name))
    )
    fill_from(tmp_path, language_model("Llama"))
    assert order[0] == "fsync"  # meta.json, before it gets its name
    assert order[1:] == ["fsync", "fsync", "complete"]


def test_a_foreign_cache_is_an_error(tmp_path):
    ReferenceCache.open(tmp_path, MADE_WITH)
    with pytest.raises(ReferenceCacheError, match="dtype was float32, now bfloat16; model was a, now b"):
        ReferenceCache.open(tmp_path, {**MADE_WITH, "model": "b", "dtype": "bfloat16"})
    with pytest.raises(ReferenceCacheError, match="template was not set, now qwen2_vl"):
        ReferenceCache.open(tmp_path, {**MADE_WITH, "template": "qwen2_vl"})
    meta = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "format": 0}))
    with pytest.raises(ReferenceCacheError, match="another version"):
        ReferenceCache.open(tmp_path, MADE_WITH)


def test_a_folder_of_other_files_is_not_touched(tmp_path):
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(ReferenceCacheError, match="no reference cache"):
        ReferenceCache.open(tmp_path, MADE_WITH)
    assert len(list(tmp_path.iterdir())) == 1


def test_another_rank_may_open_the_same_new_folder(tmp_path, monkeypatch):
    """Between one rank's look for `meta.json` and its look at the folder, another moves its own there."""
    folder, listing = tmp_path / "cache", pathlib.Path.iterdir

    def late(self):
        if self == folder:
            monkeypatch.setattr(pathlib.Path, "iterdir", listing)
            ReferenceCache.open(folder, MADE_WITH)
        return listing(self)

    monkeypatch.setattr(pathlib.Path, "iterdir", late)
    assert len(ReferenceCache.open(folder, MADE_WITH)) == 0
    assert (folder / "meta.json").exists()


def test_what_is_not_finite_is_not_stored(tmp_path):
    cache = ReferenceCache.open(tmp_path, MADE_WITH)
    keys, values, wanted = batch()
    with pytest.raises(ReferenceCacheError, match="not finite"):
        cache.store(keys, torch.where(wanted, torch.nan, values), wanted)
    assert len(ReferenceCache.open(tmp_path, MADE_WITH)) == 0


def _write(folder, seed):
    cache = ReferenceCache.open(folder, MADE_WITH)
    torch.manual_seed(seed)
    for number in range(5):
        cache.store(*batch(seed=10 * seed + number))


def test_processes_fill_one_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path, seed)) for seed in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    cache = ReferenceCache.open(tmp_path, MADE_WITH)
    assert len(cache) == 3 * 5 * 6
    for seed in range(3):
        torch.manual_seed(seed)
        for number in range(5):
            keys, values, wanted = batch(seed=10 * seed + number)
            assert torch.equal(cache.lookup(keys, wanted), values)


def test_keys_are_of_tokens_training_and_images():
    inputs, wanted = token_batch()
    ids, seen = inputs["input_ids"], inputs["attention_mask"]
    keys = row_keys(ids, seen, wanted, NO_MEDIA)
    assert len(set(keys)) == 6 and all(len(key) == 16 for key in keys)

    def pad(x):
        return torch.nn.functional.pad(x, (2, 4))

    assert row_keys(pad(ids), pad(seen), pad(wanted), NO_MEDIA) == keys
    assert row_keys(torch.where(seen.bool(), ids, 9), seen, wanted, NO_MEDIA) == keys
    one_less = wanted.clone()
    one_less[:, -1] = False
    one_less[0, int(wanted[0].long().argmax())] = False
    assert row_keys(ids, seen, one_less, NO_MEDIA)[0] != keys[0]
    other = [media_digest([picture(row, 8, 8)]) for row in range(6)]
    assert not set(row_keys(ids, seen, wanted, other)) & set(keys)


def test_media_count_by_their_content(tmp_path):
    image, other = picture(0, 8, 9), picture(1, 8, 9)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(stream.getvalue())
    moved = tmp_path / "b.png"
    moved.write_bytes(stream.getvalue())
    forms = (
        str(path), moved, stream.getvalue(), {"bytes": stream.getvalue(), "path": None},
        {"bytes": None, "path": str(path)},
    )  # fmt: skip
    for kind in ("images", "videos", "audios"):
        assert len({media_digest(**{kind: [form]}) for form in forms}) == 1
    assert len({media_digest(**{kind: [path]}) for kind in ("images", "videos", "audios")}) == 3
    digests = [media_digest(images) for images in ([], [image], [other], [image, other], [other, image])]
    assert len({*digests}) == 5
    assert media_digest([image.copy()]) == digests[1]
    assert media_digest([image.rotate(180)]) != digests[1]
    assert media_digest([np.zeros((2, 3))]) != media_digest([np.zeros((3, 2))])
    assert media_digest([], None, ()) == media_digest()
    with pytest.raises(TypeError, match="images of the type int"):
        media_digest([3])


def test_frames_and_sounds_are_told_apart(tmp_path):
    frames = [picture(seed, 8, 8) for seed in range(3)]
    paths = [tmp_path / f"{place}.png" for place in range(3)]
    for frame, path in zip(frames, paths, strict=True):
        frame.save(path)
    videos = [[frames], [frames[::-1]], [frames[:2]], [frames[:1], frames[1:]], [paths], [paths[::-1]]]
    assert len({media_digest(videos=video) for video in videos}) == len(videos)
    sound = np.sin(np.arange(80) / 7).astype(np.float32)
    audios = [[sound], [-sound], [sound[:-1]], [{"array": sound, "sampling_rate": 16000}]]
    audios += [[{"array": sound, "sampling_rate": 8000}], [{"array": -sound, "sampling_rate": 8000}]]
    assert len({media_digest(audios=audio) for audio in audios}) == len(audios)


def test_a_file_that_changes_is_read_again(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"one")
    first = media_digest(audios=[path])
    path.write_bytes(b"three")
    assert media_digest(audios=[path]) != first


@pytest.mark.parametrize("data, seconds", [(b"two", 5), (b"three", 0)])
def test_a_file_of_the_same_size_or_the_same_time_is_read_again(tmp_path, data, seconds):
    path = tmp_path / "a.wav"
    path.write_bytes(b"one")
    first, changed = media_digest(audios=[path]), path.stat().st_mtime_ns
    path.write_bytes(data)
    os.utime(path, ns=(changed, changed + seconds * 10**9))
    assert media_digest(audios=[path]) != first


def test_pictures_and_arrays_of_the_same_bytes_are_told_apart():
    gray = [
        Image.frombytes(mode, size, bytes(range(6)))
        for mode, size in (("L", (2, 3)), ("L", (3, 2)), ("P", (2, 3)))
    ]
    array = np.arange(6, dtype=np.uint8)
    items = [*gray, array, array.astype(np.int8), array.reshape(2, 3), array.tobytes(), [array], [[array]]]
    assert len({media_digest([item]) for item in items}) == len(items)
    assert media_digest([torch.from_numpy(array)]) == media_digest([array])


# --- filling ------------------------------------------------------------------------------------------


def batches(model, seeds=range(4), calls=None):
    for seed in seeds:
        inputs, wanted = token_batch(seed=seed)
        keys = row_keys(inputs["input_ids"], inputs["attention_mask"], wanted, NO_MEDIA)

        def compute(inputs=inputs, wanted=wanted, seed=seed):
            if calls is not None:
                calls.append(seed)
            return plain_logps(model, inputs, wanted)

        yield keys, wanted, compute


def fill_from(folder, model, seeds=range(4), dataset="train"):
    cache, calls = ReferenceCache.open(folder, MADE_WITH), []
    fill(
        cache,
        batches(model, seeds, calls),
        precision=torch.float32,
        device=torch.device("cpu"),
        dataset=dataset,
    )
    return cache, calls


def test_filled_once(tmp_path):
    model = language_model("Llama")
    cache, calls = fill_from(tmp_path, model)
    assert calls == [0, 1, 2, 3]
    for keys, wanted, compute in batches(model):
        assert torch.equal(cache.lookup(keys, wanted), compute().detach())
    # The second run computes one batch to check the first one's work, a third set only what is new.
    assert fill_from(tmp_path, model)[1] == [0]
    assert fill_from(tmp_path, model, [2, 3, 7], dataset="evaluation")[1] == [2, 7]


def test_a_run_that_was_stopped_goes_on(tmp_path):
    model = language_model("Llama")
    fill_from(tmp_path, model, [0, 1], dataset="part")
    assert fill_from(tmp_path, model)[1] == [0, 2, 3]


def test_a_complete_set_is_not_gone_through_again(tmp_path):
    model = language_model("Llama")
    fill_from(tmp_path, model)
    cache = ReferenceCache.open(tmp_path, MADE_WITH)
    seen = []

    def watched():
        for item in batches(model):
            seen.append(1)
            yield item

    fill(cache, watched(), precision=torch.float32, device=torch.device("cpu"), dataset="train")
    assert len(seen) == 1


def test_a_stale_cache_is_an_error(tmp_path):
    """The same name and settings, other weights: the fingerprint cannot know, the first batch does."""
    model = language_model("Llama")
    fill_from(tmp_path, model)
    model.model.layers[1].mlp.down_proj.weight.data *= 1.01
    with pytest.raises(ReferenceCacheError, match="stale: it differs from the reference model"):
        fill_from(tmp_path, model)
