"""The sentence splitter: exact offsets for any text, quality on gold data, time linear in the length."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.sentences import GOLD, LANGUAGES, bare_syntok, f1, hostile_inputs, quality, read_gold, seconds
from dataset_tools import sentences
from dataset_tools.sentences import SPLITTER_VERSION, split_sentences
from dataset_tools.sentences.languages import languages_of

HARD, ANSWERS = (read_gold(path) for path in GOLD.values())
FOREIGN = read_gold(LANGUAGES)


def pieces(text: str) -> list[str]:
    return [text[start:end] for start, end in split_sentences(text)]


def check_spans(text: str) -> None:
    """The promise of `split_sentences` for any text."""
    spans = split_sentences(text)
    assert spans == split_sentences(text)
    position = 0
    for start, end in spans:
        assert type(start) is int and type(end) is int
        assert position <= start < end <= len(text)
        assert not text[position:start].strip(), "text outside every sentence"
        assert text[start:end] == text[start:end].strip(), "white space at an end"
        position = end
    assert not text[position:].strip(), "text outside every sentence"


# Pieces that mean something to the splitter, so that random texts reach its rules.
FRAGMENTS = st.sampled_from(
    [
        *(
            "The cat sleeps",
            "it is red",
            "Dr",
            "e.g",
            "U.S",
            "fig",
            "No",
            "A",
            "B",
            "12",
            "3.5",
            "etc",
            "cm",
            "Xx",
        ),
        *(".", "!", "?", "...", "…", "。", "！", "？", "।", ";", ":", ",", "，", "?!", "..", " . "),
        *(" ", "  ", "\n", "\n\n", "\r\n", "\r", "\t", "\u2028", "\u200b", "\u3000", "\x1c", "\x85", "\xa0"),
        *(
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            '"',
            "'",
            "“",
            "”",
            "‘",
            "’",
            "「",
            "」",
            "（",
            "）",
            "*",
            "**",
            "_",
            "~~",
        ),
        *(
            "`",
            "```",
            "```\n",
            "~~~\n",
            "$",
            "$$",
            "$$\n",
            "\\(",
            "\\)",
            "\\[\n",
            "\\]",
            "\\begin{a}",
            "\\end{a}",
        ),
        *(
            "1. ",
            "2) ",
            "(a) ",
            "- ",
            "* ",
            "• ",
            "# ",
            "> ",
            "|",
            "| a | b |\n",
            "|---|---|\n",
            "---\n",
            "（1）",
            "① ",
        ),
        *(
            "图中有猫",
            "です",
            "고양이",
            "кот",
            "😀",
            "❤️",
            "👩‍👩‍👧",
            "✅ ",
            "e\u0301",
            "\ud800",
            "\x00",
            "\ufeff",
        ),
        *("«", "»", "„", "‚", "‹", "« ", " »", "»…«", "—", "– ", ";", "؟", "۔", "։", "።", "។", "\u037e"),
        *("z. B.", "bzw", "19", "núm", "Sra", "т. д", "А. С.", "ул", "د", "إلخ", "डॉ", "है", "다", "TP", "vb"),
        *(
            " the ",
            "der",
            "Die",
            "la",
            "El",
            "и",
            "Он",
            "και",
            "một",
            "var",
            "ي",
            "か\u3099",
            "\u200f",
            "\u00ad",
        ),
        *("<b>", "</b>", "<think>\n", "<br>", "http://a.b/c?d=e.f", "a@b.co", "[x](y.z)", "[1]", ":)"),
    ]
)


@given(st.one_of(st.text(max_size=80), st.lists(FRAGMENTS, max_size=25).map("".join)))
@example("")
@example(" \n\t\u3000")
@example("I\xa0. Yes")
@example("([{" * 60)
@settings(max_examples=400, deadline=None)
def test_spans_are_exact_for_any_text(text: str) -> None:
    check_spans(text)


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\u3000\t\r\n", "\u2028"])
def test_white_space_has_no_sentences(text: str) -> None:
    assert split_sentences(text) == []


@pytest.mark.parametrize("name", hostile_inputs(200))
def test_spans_are_exact_for_hostile_inputs(name: str) -> None:
    check_spans(hostile_inputs(2000)[name])


@pytest.mark.parametrize(("rows", "least"), [(HARD, 0.99), (ANSWERS, 0.98)], ids=["hard", "answers"])
def test_quality_on_gold(rows: list[dict], least: float) -> None:
    kinds, _ = quality(rows, split_sentences)
    assert f1(kinds["all"]) >= least
    bare, _ = quality(rows, bare_syntok)
    assert f1(bare["all"]) < 0.8, "the gold data is no longer hard"


@pytest.mark.parametrize("kind", sorted({row["cat"] for row in HARD}))
def test_no_kind_of_text_is_left_behind(kind: str) -> None:
    kinds, _ = quality([row for row in HARD if row["cat"] == kind], split_sentences)
    assert f1(kinds["all"]) >= 0.97


def test_gold_spans_keep_the_promise() -> None:
    for row in HARD + ANSWERS + FOREIGN:
        for (_, end), (start, _) in zip(row["spans"], row["spans"][1:], strict=False):
            assert end <= start and not row["text"][end:start].strip()
        assert all(row["text"][s:e].strip() == row["text"][s:e] != "" for s, e in row["spans"])


@pytest.mark.parametrize(
    "text",
    [
        "Run this:¦\n```python\nx = 1. + 2\n\nprint('A. B')\n```¦\nDone.",
        "```\nunclosed. Code\n\nGoes on.",
        "We get¦\n$$\na = 1. \\quad b\n$$¦\nwhere a is one.",
        "| a. B | c |\n|---|---|¦\n| D. e | f |",
        "A line.¦\r\nAnother one.¦\r\n\r\n- item¦\n- item",
        "The cat is lying on the\nnext chair.¦ Its tail hangs\ndown.¦\n50 people look on.",
        "She said it.¦ “It is red. It is big,” he added.",
        "He has a bird (e.g. an owl. Or not) at home.¦ It sings.",
        "Good 😊¦ The dog is cute! 🐶¦ Bye.",
        "他说：“小心！”然后离开了。¦天黑了。",
        "The price is $3.50.¦ The other is $4.",
        "See https://a.b/c.d?e=F.¦ It is short.",
        "1. A lamp 2. A desk 3. A chair",
        "the room is well lit.¦ Two lamps hang there.",
        "Main St. is closed.¦ Dr. J. Lee lives there with Mr. A. Wu Jr. and others.",
        "costs Rs. 75 in the U.S.¦ He paid.",
    ],
)
def test_texts(text: str) -> None:
    """`¦` marks the boundaries."""
    assert pieces(text.replace("¦", "")) == [piece.strip() for piece in text.split("¦")]


@pytest.mark.parametrize("language", sorted({row["cat"] for row in FOREIGN}))
def test_quality_in_each_language(language: str) -> None:
    kinds, _ = quality([row for row in FOREIGN if row["cat"] == language], split_sentences)
    assert f1(kinds["all"]) >= 0.95


def test_quality_over_all_languages() -> None:
    kinds, _ = quality(FOREIGN, split_sentences)
    assert f1(kinds["all"]) >= 0.98
    bare, _ = quality(FOREIGN, bare_syntok)
    assert f1(bare["all"]) < 0.8, "the gold data is no longer hard"


@pytest.mark.parametrize(
    "text",
    [
        # Abbreviations and ordinals before lower case, a digit and a capital.
        "Das sind bzw. waren ggf. ca. 12 Äpfel aus dem 19. Jahrhundert.¦ Am 3. Oktober war es kalt.",
        "Sie isst Äpfel, Birnen usw.¦ Der Korb ist leer.¦ Vgl. Abb. 3 von Dr. H. Meier.",
        "Voir fig. 3, p. 12, de M. Petit.¦ Elle est claire.",
        "Véase la pág. 12, núm. 5, de la Sra. Ruiz.¦ Está claro.",
        "В городе 25 тыс. жителей, т. е. мало.¦ Дом А. С. Пушкина стоит на ул. Мира.",
        "Bina 19. yüzyıldan, yani vb. eserler gibi eski.¦ Önünde ağaçlar var.",
        "Ông Minh sống ở TP. Huế với TS. Lan và các con.¦ Họ vui.",
        # A capital letter that is a label and no initial, and initials.
        "L'angle A est égal à l'angle B.¦ L'angle B mesure 30 degrés.",
        "L'angle B.¦ L'angle B est droit dans la figure.",
        "La droite passe par le point B.¦ D’après la figure, elle est droite.",
        "La théorie de J. D'Alembert est dans un livre de J. K. Rowling.¦ Elle est connue.",
        "La figura mostra che il punto A è sul lato B.¦ L'angolo è retto.",
        "Der Winkel A ist gleich dem Winkel B.¦ Der Winkel B ist groß.",
        "Der Schauspieler Robert B. De Niro ist auf dem Bild mit George W. Bush und nicht zu sehen.",
        # Quotation marks, and who goes on after them.
        "Er rief: »Komm! Schnell!« und lief.¦ Auf dem Schild steht „Halt! Stop.“, das ist alt.¦ Gut.",
        "On lit : « Attention ! Danger. »¦ La grille est fermée.¦ « Oui ! » dit-elle.",
        "«Иди! Быстро!» — сказала она.¦ Он ушёл.",
        '그는 "조심! 개가 뭅니다."라고 말했다.¦ 문은 닫혀 있다.',
        "— ¿Quién es el niño? — preguntó la madre.¦ — Soy yo.",
        # Scripts without capitals.
        "زار د. أحمد المدينة (الكبيرة).¦ الجو جميل؟¦ نعم.",
        'डॉ. शर्मा यहाँ हैं।¦ उन्होंने कहा "रुको।" लिखा था।¦ ठीक है।',
        "사진은 2019. 10. 3. 찍었다.¦ 높이는 3.5m이다.",
        "ภาพจาก พ.ศ. 2560 มี รศ. ดร. สมชาย อยู่ด้วย",
        # Stops of other scripts, and invisible characters after a stop.
        "Սա տուն է։¦ Նա մեծ է։",
        "ይህ ቤት ነው።¦ ትልቅ ነው።",
        "នេះជាផ្ទះ។¦ វាធំ។",
        "Τι είναι αυτό;¦ Είναι μια γάτα.¦ Ο κ. Νίκος γελά.",
        "Ein Haus steht da.\u200b¦ Es ist rot.\u200f¦ Er ist da.",
        # English.
        "It is from the '90s.¦ It isn't 'new' at all.",
        "The tower is tall.[1]¦ It is old.¦ Done..¦ The end.",
        "图是Dr. Wang拍的。¦后来他笑了……¦天黑了。",
    ],
)
def test_other_languages(text: str) -> None:
    """`¦` marks the boundaries."""
    assert pieces(text.replace("¦", "")) == [piece.strip() for piece in text.split("¦")]


@pytest.mark.parametrize("row", HARD + ANSWERS, ids=lambda row: row["text"][:30])
def test_english_is_told_from_other_languages(row: dict) -> None:
    if row["text"].isascii():
        assert languages_of(row["text"]).latin is None or row["text"].count(" ") < 8


@pytest.mark.parametrize("code", ["de", "fr", "es", "it", "pt", "ru", "tr", "vi"])
def test_languages_are_told_apart(code: str) -> None:
    rows = [row["text"] for row in FOREIGN if row["cat"] == code]
    told = [languages_of(text) for text in rows]
    right = sum(code in {known.code for known in languages if known} for languages in told)
    assert right >= 0.8 * len(rows)


def test_plain_prose_is_left_to_syntok(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "The cat sleeps on the mat. Many people like cats very much. Few dislike them."
    assert len(pieces(text)) == 3
    from dataset_tools.sentences import rules

    monkeypatch.setattr(rules, "propose", lambda masked: frozenset())
    assert len(pieces(text)) == 1


# The slowest input measured takes about 0.15 s and grows linearly; the promise is 0.5 s.
@pytest.mark.parametrize("name", hostile_inputs(200))
def test_no_hostile_input_is_slow(name: str) -> None:
    text = hostile_inputs(20_000)[name]
    assert len(text) == 20_000
    elapsed = seconds(split_sentences, text, repeats=1)
    if elapsed > 0.25:
        elapsed = seconds(split_sentences, text, repeats=5)
    assert elapsed < 0.5
    if elapsed > 0.04:
        # Four times the length: about 4 times the time where it is linear, 16 where it is quadratic.
        longer = hostile_inputs(80_000)[name]
        assert seconds(split_sentences, longer, repeats=1) < 10 * elapsed


CONSECUTIVE = [
    "The player on the left wears number 7. The player on the right wears number 8. They are running.",
    "In 2019, sales were 5. In 2020, sales were 6. In 2021, sales were 7.",
    "The first match is on May 5. The second match is on May 6. Both are at home.",
    "Angle A equals angle B. Angle B equals angle C.",
    "The highest is A. The lowest is B. The middle is C.",
    "Die Spielerin links trägt die Nummer 7. Die Spielerin rechts trägt die Nummer 8. Sie laufen.",
    "Winkel A ist größer als Winkel B. Winkel B ist größer als Winkel C.",
    "Le joueur à gauche porte le numéro 7. Le joueur à droite porte le numéro 8. Ils courent.",
    "El jugador lleva el número 7. El otro jugador lleva el número 8. Están corriendo.",
    "На футболке слева номер 7. На футболке справа номер 8. Они бегут.",
]
INLINE_LISTS = [
    "1. A lamp 2. A desk 3. A chair",
    "I see: 1. A lamp 2. A desk 3. A chair",
    "Options: A. Red B. Blue C. Green",
]


@pytest.mark.parametrize("text", CONSECUTIVE)
def test_sentences_that_end_in_consecutive_numbers_or_letters_are_no_list(text: str) -> None:
    assert [text[a:b] for a, b in split_sentences(text)] == [
        f"{each.strip('.')}." for each in text.split(". ")
    ]


@pytest.mark.parametrize("text", INLINE_LISTS)
def test_a_list_within_a_line_is_not_cut_behind_its_markers(text: str) -> None:
    assert split_sentences(text) == [(0, len(text))]
    behind = f"There is this. {text}"
    assert not any(behind[b - 2 : b] in ("1.", "2.", "3.", "B.", "C.") for _, b in split_sentences(behind))


def test_version_names_rules_and_engine() -> None:
    from importlib.metadata import version

    assert SPLITTER_VERSION == f"{sentences.RULES_VERSION}+syntok{version('syntok')}"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sentences.nothing  # noqa: B018


def test_import_does_not_load_the_engine() -> None:
    code = "import sys, dataset_tools.sentences; print({'syntok', 'regex', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
