"""The pre-training characters, the `scripts` stream, and the shipped backbone file."""

import hashlib
import json
import re
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import ntkcl_jax
from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.data import glyphs, strokes
from ntkcl_jax.errors import DataError
from ntkcl_jax.weights import load_backbone, timm_names

ASSETS = Path(ntkcl_jax.__file__).parent / "assets"
HELD_OUT = ("ARMENIAN", "GEORGIAN", "HEBREW", "ARABIC", "TIFINAGH", "LAO", "NKO", "OGHAM", "CANADIAN")
ALL_SCRIPTS = "".join(glyphs.SCRIPTS.values())


@pytest.fixture(scope="module")
def about() -> dict:
    return json.loads((ASSETS / "nano_glyphs.json").read_text())


@pytest.fixture(scope="module")
def stream():
    return glyphs.render_scripts()


def is_number(character: str) -> bool:
    return any(unicodedata.category(c)[0] == "N" for c in character + unicodedata.normalize("NFKD", character))


def test_every_unicode_number_is_a_digit_and_barred_from_pre_training():
    for code in range(0x30000):
        if is_number(chr(code)):
            assert glyphs.is_digit(chr(code)), hex(code)
            assert not glyphs.is_pretraining_character(chr(code)), hex(code)


@pytest.mark.parametrize("drawn", "ƻƽƄ")
def test_a_letter_that_is_a_drawn_number_is_barred_too(drawn):
    assert glyphs.is_digit(drawn) and not is_number(drawn)
    assert not glyphs.is_pretraining_character(drawn)


def test_the_shipped_backbone_saw_no_digit_and_no_held_out_script(about):
    classes = about["classes"]
    assert len(set(classes)) == len(classes) > 800
    assert [c for c in classes if is_number(c) or glyphs.is_digit(c)] == []
    assert [c for c in classes if unicodedata.name(c).split()[0] in HELD_OUT] == []
    assert not set(classes) & set(ALL_SCRIPTS)


def test_the_only_symbols_that_hold_a_small_numeral_are_the_three_that_the_model_card_names(about):
    held = [c for c in about["classes"] if re.search(r"CUBE|FOURTH|TYPE-\d", unicodedata.name(c))]
    assert held == ["∛", "∜", "♳"]
    assert "∛ ∜ ♳" in (ASSETS / "nano_glyphs.md").read_text()


def test_the_shipped_backbones_classes_follow_the_rule(about):
    now, then = set(glyphs.pretraining_characters()), set(about["classes"])
    # another version of the fonts may turn a few near duplicates over
    assert len(now ^ then) <= 0.02 * len(then)


def test_tex_fonts_give_only_letters_because_their_encodings_hide_digits():
    for font in (*glyphs.PRETRAINING_FONTS, *glyphs.UNSEEN_FONTS):
        if font.startswith("cm"):
            assert strokes.font_characters(font) == set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


def test_held_out_characters_belong_to_nine_scripts_and_differ():
    assert len(ALL_SCRIPTS) == len(set(ALL_SCRIPTS)) == 120
    for script, letters in glyphs.SCRIPTS.items():
        for letter in letters:
            assert unicodedata.name(letter).split()[0] == script.upper().split()[0]
            assert unicodedata.category(letter).startswith("L")
            assert not is_number(letter) and not glyphs.is_pretraining_character(letter)


def test_no_held_out_character_looks_like_another_or_like_a_pre_training_one(about):
    _, held_out = glyphs.looks(ALL_SCRIPTS)
    _, seen = glyphs.looks(about["classes"])
    among = glyphs.look_distance(held_out, held_out)
    np.fill_diagonal(among, 1)
    assert among.min() > 0.2  # 0.25 with the fonts that they were chosen with
    assert glyphs.look_distance(held_out, seen).min() > glyphs.SAME_LOOK


def test_the_scripts_stream_has_balanced_classes_and_both_sides_see_all(stream):
    train, train_labels, test, test_labels, names = stream
    assert train.shape == (2400, 28, 28) and test.shape == (1200, 28, 28)
    assert train.dtype == test.dtype == np.uint8
    assert np.bincount(train_labels).tolist() == [20] * 120 and np.bincount(test_labels).tolist() == [10] * 120
    assert train_labels.dtype == test_labels.dtype == np.int64
    assert len(set(names)) == 120 and names[18] == "Georgian U+10D0"


def test_scripts_are_light_strokes_on_a_dark_ground(stream):
    for images in (stream[0], stream[2]):
        assert np.median(images) == 0 and 0.02 < images.mean() / 255 < 0.25
        assert images.reshape(len(images), -1).max(1).min() > 60  # every image shows something


def test_no_image_of_the_scripts_stream_comes_twice(stream):
    images = np.concatenate([stream[0], stream[2]]).reshape(3600, -1)
    assert len(np.unique(images, axis=0)) == 3600


def test_rendering_twice_gives_the_same_bits_within_ten_seconds(stream):
    started = time.process_time()
    again = glyphs.render_scripts()
    assert time.process_time() - started < 10
    for a, b in zip(stream, again, strict=True):
        assert np.array_equal(a, b)


def test_the_rendered_pixels_are_those_of_the_first_release(stream):
    # Grey values may round otherwise under another FreeType or NumPy, sums barely move.
    assert stream[0].mean() == pytest.approx(19.806, rel=0.01)
    assert stream[2].mean() == pytest.approx(20.272, rel=0.01)


def test_the_stroke_grows_with_distance_and_the_glyph_fills_its_box():
    field = strokes.distance_field("H", "DejaVuSans")
    ink = np.argwhere(field > 0)
    assert (np.ptp(ink, axis=0) + 1).max() in range(strokes.GLYPH_SIDE - 3, strokes.GLYPH_SIDE + 2)
    assert field[32, 32] > 0 > field[0, 0]
    assert np.abs(np.diff(field, axis=0)).max() <= 1.01 and np.abs(np.diff(field, axis=1)).max() <= 1.01


def test_without_strength_the_drawing_is_the_glyph_itself_whatever_the_seed():
    fields = np.stack([strokes.distance_field(c, "DejaVuSans") for c in "Ab"])
    a, b = (strokes.draw(fields, np.random.default_rng(seed), strength=0.0) for seed in (0, 1))
    assert np.array_equal(a, b)
    assert not np.array_equal(a[0], a[1])


def test_full_strength_moves_every_image_its_own_way():
    fields = np.repeat(strokes.distance_field("A", "DejaVuSans")[None], 16, axis=0)
    images = strokes.draw(fields, np.random.default_rng(0), strength=1.0).reshape(16, -1)
    assert len(np.unique(images, axis=0)) == 16


def test_a_missing_font_is_named():
    with pytest.raises(DataError, match=r"NoSuchFont\.ttf"):
        strokes.font_path("NoSuchFont")


def test_a_glyph_without_ink_is_named():
    with pytest.raises(DataError, match=r"U\+0020 in DejaVuSans"):
        strokes.distance_field(" ", "DejaVuSans")


def test_the_shipped_file_is_the_one_that_its_facts_describe(about):
    data = (ASSETS / "nano_glyphs.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == about["sha256"]
    assert len(data) < 2_500_000


def test_the_shipped_file_holds_timms_tensors_in_half_precision(about):
    with safe_open(ASSETS / "nano_glyphs.safetensors", framework="numpy") as f:
        tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118  (not a dict)
        assert {"licence", "origin"} <= set(f.metadata())
    assert set(tensors) == set(timm_names(BackboneConfig()))
    assert {t.dtype for t in tensors.values()} == {np.dtype(np.float16)}
    assert all(np.isfinite(t).all() for t in tensors.values())
    assert sum(t.size for t in tensors.values()) == about["parameters"]


def test_the_shipped_backbone_loads_by_name(about):
    tree, sha256 = load_backbone("nano", BackboneConfig())
    assert sha256 == about["sha256"]
    assert tree["backbone/positions"].shape == (1, 50, 64)


def test_the_facts_say_how_the_file_was_made(about):
    assert about["training"]["images"] == about["training"]["recipe"]["steps"] * about["training"]["recipe"]["batch"]
    assert about["accuracy"]["mnist-5k"]["pretrained"]["nearest_class_mean"] > 0.94
