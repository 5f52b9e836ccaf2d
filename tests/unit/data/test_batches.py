"""Batches: complete, deterministic, resumable, padded."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data import Arrays, ImageSet, eval_batches, load_source, prepare, steps_per_epoch, train_batches
from ntkcl_jax.data.affine import UNCHANGED, affine_view_host
from ntkcl_jax.data.batches import check_memory
from ntkcl_jax.data.transforms import test_transform as transform_for_testing
from ntkcl_jax.errors import DataError

COUNT, SIZE = 23, 12
PIXELS = np.random.default_rng(0).integers(0, 256, (40, SIZE, SIZE, 3), np.uint8)
PIXELS[:, :, :, 0] = np.arange(40)[:, None, None]  # the red channel survives every crop and names the image
INDICES = np.random.default_rng(1).permutation(40)[:COUNT]
LABELS = INDICES % 7
DATA = DataConfig(source="arrays", resize=SIZE)
IMAGES = load_source(DATA, Arrays(PIXELS, np.zeros(40, int), PIXELS[:1], np.zeros(1, int))).train


class Mixed(ImageSet):
    """Images of different sizes, one of them unreadable if asked."""

    def __init__(self, bad=None):
        self.labels = np.zeros(40, np.int64)
        self.bad = bad

    def load(self, index):
        if index == self.bad:
            raise DataError(f"can't read {self.names(index)}")
        return np.full((5 + index % 3, 6 + index % 4, 3), index, np.uint8)

    def names(self, index):
        return f"image{index}.png"

    def subset(self, indices):
        raise NotImplementedError

    def digest(self):
        raise NotImplementedError


def batches(images=IMAGES, *, data=DATA, on_device=False, **changes):
    options = {"size": SIZE, "batch_size": 5, "seed": 0, "task": 0, "epoch": 0, **changes}
    return list(train_batches(images, INDICES, LABELS, data=data, on_device=on_device, **options))


def equal(first, second):
    return len(first) == len(second) and all(
        (a is None and b is None) or np.array_equal(a, b)
        for one, two in zip(first, second, strict=True)
        for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("batch_size", [1, 5, 23, 64])
def test_every_image_comes_once_with_its_label_and_the_rest_is_padding(batch_size, on_device):
    found = batches(batch_size=batch_size, on_device=on_device)
    assert len(found) == steps_per_epoch(COUNT, batch_size) == -(-COUNT // batch_size)
    assert all(b.images.shape == (batch_size, SIZE, SIZE, 3) and b.images.dtype == np.uint8 for b in found)
    assert all(b.labels.dtype == np.int32 and b.valid.dtype == bool for b in found)
    assert sum(int(b.valid.sum()) for b in found) == COUNT
    seen = np.concatenate([b.images[b.valid, 0, 0, 0] for b in found])
    assert sorted(seen.tolist()) == sorted(INDICES.tolist())
    assert np.array_equal(np.concatenate([b.labels[b.valid] for b in found]), seen % 7)
    last = found[-1]
    assert not last.images[~last.valid].any() and not last.labels[~last.valid].any()
    assert last.valid.tolist() == sorted(last.valid.tolist(), reverse=True)


def test_equal_arguments_give_equal_bits_and_seed_task_and_epoch_each_change_them():
    for on_device in (False, True):
        first = batches(on_device=on_device)
        assert equal(first, batches(on_device=on_device))
        for change in ({"seed": 1}, {"task": 1}, {"epoch": 1}):
            other = batches(on_device=on_device, **change)
            assert not equal(first, other)
            assert not np.array_equal(first[0].images[:, 0, 0, 0], other[0].images[:, 0, 0, 0])  # another order


def test_the_draws_of_seed_0_are_written_down():
    first = batches(on_device=True)[0]
    assert first.images[:, 0, 0, 0].tolist() == [20, 24, 3, 17, 22]
    assert first.boxes.tolist() == [[3, 5, 8, 6], [0, 2, 6, 5], [0, 2, 6, 6], [0, 4, 8, 8], [1, 6, 6, 6]]
    assert first.flips.tolist() == [False, False, True, False, True]


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("start_step", [0, 1, 4, 5])
def test_resuming_at_a_step_gives_the_bits_of_the_undisturbed_epoch(start_step, on_device):
    whole = batches(on_device=on_device)
    assert equal(whole[start_step:], batches(on_device=on_device, start_step=start_step))


@pytest.mark.parametrize("images", [IMAGES, Mixed()])
def test_the_number_of_threads_changes_nothing(images):
    one = batches(images, data=DataConfig(workers=1))
    assert equal(one, batches(images, data=DataConfig(workers=7)))


def test_an_image_keeps_its_crop_whatever_the_batch_size():
    def crops(batch_size):
        found = batches(batch_size=batch_size)
        return {int(image[0, 0, 0]): image.tobytes() for b in found for image in b.images[b.valid]}

    assert crops(5) == crops(23) == crops(4)


def test_crops_and_flips_differ_between_images_and_flips_are_fair():
    indices = np.arange(4000) % 40
    found = list(
        train_batches(
            IMAGES, indices, indices, data=DATA, size=SIZE, batch_size=500, seed=0, task=0, epoch=0, on_device=True
        )
    )
    flips = np.concatenate([b.flips for b in found])
    assert abs(flips.mean() - 0.5) < 0.04  # five standard errors
    boxes = np.concatenate([b.boxes for b in found])
    assert len(np.unique(boxes, axis=0)) > 500
    assert boxes.dtype == np.float32
    plain = DataConfig(flip=False)
    unflipped = list(
        train_batches(
            IMAGES, indices, indices, data=plain, size=SIZE, batch_size=500, seed=0, task=0, epoch=0, on_device=True
        )
    )
    assert not np.concatenate([b.flips for b in unflipped]).any()
    assert np.array_equal(np.concatenate([b.boxes for b in unflipped]), boxes)


def test_device_batches_hold_what_the_host_would_crop():
    from ntkcl_jax.data.transforms import train_transform_host

    for host, device in zip(batches(), batches(on_device=True), strict=True):
        assert host.boxes is None and host.flips is None
        boxes = device.boxes.astype(int).tolist()
        cropped = [
            train_transform_host(i, SIZE, tuple(b), f)
            for i, b, f in zip(device.images, boxes, device.flips.tolist(), strict=True)
        ]
        assert np.array_equal(np.stack(cropped)[host.valid], host.images[host.valid])
        assert (device.boxes[:, 2:] > 0).all()  # padding too: an empty box would divide by zero


AFFINE = DataConfig(source="arrays", resize=SIZE, train_view="affine")


def test_affine_views_are_a_function_of_seed_task_epoch_and_the_images_place_alone():
    def views(**changes):
        found = batches(**{"data": AFFINE, **changes})
        return {int(image[0, 0, 0]): image.tobytes() for b in found for image in b.images[b.valid]}

    first = views()
    # The red channel is flat, so that it names the image in every view too
    assert sorted(first) == sorted(INDICES.tolist())
    for change in ({"batch_size": 23}, {"batch_size": 4}, {"data": replace(AFFINE, workers=7)}):
        assert views(**change) == first
    for change in ({"seed": 1}, {"task": 1}, {"epoch": 1}):
        assert all(views(**change)[image] != first[image] for image in first)
    assert (
        sum(batches()[0].images[row].tobytes() == batches(data=AFFINE)[0].images[row].tobytes() for row in range(5))
        == 0
    )


@pytest.mark.parametrize("on_device", [False, True])
def test_an_affine_epoch_is_taken_up_again_with_the_same_bits(on_device):
    whole = batches(data=AFFINE, on_device=on_device)
    assert all(equal(whole[at:], batches(data=AFFINE, on_device=on_device, start_step=at)) for at in (1, 4, 5))


def test_the_affine_draws_of_seed_0_are_written_down():
    first = batches(data=AFFINE, on_device=True)[0]
    assert first.flips.tolist() == [False, False, True, False, True]  # as for crops
    wanted = [0.945448, -0.040077, 1.045260, 0.049033, 0.944983, -0.316632]
    np.testing.assert_allclose(first.warps[0], wanted, atol=2e-6)


def test_device_batches_hold_what_the_host_would_warp_and_padding_stays_as_it_is():
    for host, device in zip(batches(data=AFFINE), batches(data=AFFINE, on_device=True), strict=True):
        assert host.warps is None and host.flips is None and device.boxes is None
        rows = zip(device.images, device.warps.astype(float).tolist(), device.flips.tolist(), strict=True)
        made = np.stack([affine_view_host(image, tuple(warp), flip) for image, warp, flip in rows])
        # The device's maps are float32: a fraction near a whole number may be cut off on another side
        difference = np.abs(made.astype(int) - host.images)
        assert difference.max() <= 1 and difference.mean() < 0.005
        assert np.array_equal(device.warps[~device.valid], np.tile(UNCHANGED, (int((~device.valid).sum()), 1)))


def test_affine_maps_that_move_nothing_show_the_images_as_they_are_tested():
    still = replace(AFFINE, affine_degrees=0, affine_translate=(0, 0), affine_scale=(1, 1), affine_shear=0, flip=False)
    for batch in batches(Mixed(), data=replace(still, resize=10), size=8):
        wanted = [transform_for_testing(Mixed().load(int(i[0, 0, 0])), 10, 8) for i in batch.images[batch.valid]]
        assert np.array_equal(batch.images[batch.valid], np.stack(wanted))


def test_an_image_that_cannot_be_warped_is_named():
    with pytest.raises(DataError, match=r"image\d+\.png: data\.resize=4 is smaller"):
        batches(Mixed(), data=replace(AFFINE, resize=4), size=8)


def test_cropping_on_the_device_needs_one_known_size():
    with pytest.raises(DataError, match=r"one size in memory; set data\.transform_on=host"):
        batches(Mixed(), on_device=True)


def test_an_unreadable_image_stops_training_with_its_name():
    bad = int(INDICES[4])
    with pytest.raises(DataError) as caught:
        batches(Mixed(bad))
    assert str(caught.value) == f"can't read image{bad}.png"


def test_stopping_early_leaves_no_thread_behind():
    before = threading.active_count()
    iterator = train_batches(
        IMAGES, INDICES, LABELS, data=DATA, size=SIZE, batch_size=1, seed=0, task=0, epoch=0, on_device=False
    )
    next(iterator)
    iterator.close()
    for thread in set(threading.enumerate()) - {threading.main_thread()}:
        thread.join(timeout=5)
    assert threading.active_count() <= before


def test_an_empty_task_has_no_batches():
    none = np.array([], np.int64)
    assert steps_per_epoch(0, 5) == 0
    assert not list(
        train_batches(IMAGES, none, none, data=DATA, size=SIZE, batch_size=5, seed=0, task=0, epoch=0, on_device=False)
    )
    assert not list(eval_batches(prepare(IMAGES, none, DATA, SIZE), none, 5))


def test_labels_must_match_the_images():
    with pytest.raises(DataError, match="got 23 images and 22 labels"):
        train_batches(
            IMAGES, INDICES, LABELS[1:], data=DATA, size=8, batch_size=5, seed=0, task=0, epoch=0, on_device=False
        )
    with pytest.raises(DataError, match="got 40 images and 3 labels"):
        eval_batches(PIXELS, LABELS[:3], 5)


@pytest.mark.parametrize("workers", [1, 5])
def test_preparing_applies_the_test_transform_in_order_and_reports_progress(workers):
    reports = []
    data = DataConfig(resize=10, workers=workers)
    prepared = prepare(Mixed(), INDICES, data, 8, lambda done, count: reports.append((done, count)))
    expected = [transform_for_testing(Mixed().load(int(i)), 10, 8) for i in INDICES]
    assert np.array_equal(prepared, np.stack(expected))
    assert reports == [(done, COUNT) for done in range(1, COUNT + 1)]


def test_a_failure_while_preparing_names_the_image():
    with pytest.raises(DataError, match=r"can't read image9\.png"):
        prepare(Mixed(9), np.arange(40), DATA, SIZE)
    with pytest.raises(DataError, match=r"image3\.png: data\.resize=4 is smaller"):
        prepare(Mixed(), np.array([3]), DataConfig(resize=4), 8)


def test_evaluation_batches_keep_order_and_pad_the_last():
    found = list(eval_batches(PIXELS[:7], np.arange(7), 3))
    assert [b.valid.tolist() for b in found] == [[True] * 3, [True] * 3, [True, False, False]]
    assert np.array_equal(np.concatenate([b.images[b.valid] for b in found]), PIXELS[:7])
    assert np.concatenate([b.labels[b.valid] for b in found]).tolist() == list(range(7))
    assert all(b.images.shape == (3, SIZE, SIZE, 3) and b.boxes is None for b in found)


def test_images_that_do_not_fit_in_memory_are_refused_with_both_numbers(monkeypatch):
    with pytest.raises(DataError, match="GiB"):
        check_memory(2**60)
    monkeypatch.setattr("ntkcl_jax.data.batches.host_memory", lambda: 2 * 2**30)
    check_memory(2**30)
    with pytest.raises(DataError, match=r"need 3\.0 GiB, but 2\.0 GiB of memory is free"):
        check_memory(3 * 2**30)
