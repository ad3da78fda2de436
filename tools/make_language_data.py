"""Writes dataset_tools/sentences/languages.json: abbreviations and function words of other languages.

    pip install pysbd==0.3.4 stop-words==2025.11.4
    npm pack cldr-segments-full@46.1.0 && tar xzf cldr-segments-full-46.1.0.tgz
    python tools/make_language_data.py package/segments

The abbreviations are pysbd's (MIT) and CLDR's suppressions (Unicode licence); the function words, which tell
the language of a text and begin its sentences, are those of stop-words (BSD). What those lists lack, mostly
because no list exists, is in SUPPLEMENT below. The licences are beside the written file.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

WRITTEN = Path(__file__).resolve().parent.parent / "dataset_tools" / "sentences" / "languages.json"

FUNCTION_WORDS = "bg ca cs da de el es fi fr hu id it nb nl pl pt ro ru sk sv tr uk vi".split()
"""Languages whose capitals tell where a sentence begins."""

SUPPLEMENT = {
    "ar": "أ د م ص ج ت ه هـ إلخ الخ سم كم كغ كجم مم أ.د ق.م",
    "de": "abb abs anm aufl bd bspw ders div ebd einschl exkl geb gegr gez ggü hrsg inkl jh jhdt max "
    "min mind "
    "n.chr od s.o s.u tab usw u.a v.chr vmtl z.b z.zt zzgl zw str tel std sek hl fam fr hr",
    "es": "aprox máx mín núm nº pág págs ee.uu p.ej ej siglo cía EE UU FF AA avda dña dn srs c/u depto fund",
    "fr": "env mme mmes mlle mgr dr pr st ste n° av bd approx p.ex ex fig p pp vol éd tél hab min "
    "max j.-c "
    "av.j.-c ap.j.-c c.-à-d cf etc suiv",
    "hi": "डॉ डा प्रो श्री सुश्री कु पं रु सं नं पृ क्र मी सेमी किमी किग्रा ग्रा लि मि.मी से.मी "
    "कि.मी कि.ग्रा ई.पू "
    "ए बी सी डी ई एफ एफ़ जी एच आई जे के एल एम एन ओ पी क्यू आर एस टी यू वी डब्ल्यू एक्स वाई ज़ेड",
    "it": "dott dottssa dott.ssa prof profssa prof.ssa sig sigra sig.ra sigg ing avv arch geom on "
    "mons ecc cfr "
    "pag pagg fig figg tav sec n nr num p.za p.zza v.le c.so ca circ max min es p.es a.c d.c "
    "tel vol cap art",
    "pt": "aprox máx mín séc núm pág págs av sr sra srs sras srta dr dra drs dras prof profa eng arq "
    "cap fig "
    "etc ex p.ex tel vol ed n.º nº a.c d.c v.ex cia ltda jr",
    "ru": "акад бул в вв вкл г гг гл гос гр д др доц дол ед ж зав зам им инж кв кг км корп л лит м "
    "мин млн млрд "
    "мм напр нач обл ок оз пер пл пос пр просп проф р рис руб с св сек см ср ст стр т табл тел "
    "тыс ул устар "
    "х ч чел чл шт т.е т.к т.н т.д т.п н.э до.н.э и.о г-н г-жа",
    "tr": "alb apt av bkz bl bşk cad cm çev doç dr gen gör hz haz kg km krş mah max min mm no opr "
    "ord öğr örn ör "
    "prof s sn sok şb şti tel uzm vb vd vs yakl yard yrd yy yay",
    "uk": "акад бул в вул г гр д див доц ім інж кв кг км корп м мал напр обл оз о пл пор просп проф "
    "р рис рр "
    "с св см ст стор т табл тис тел тов ч т.д т.п т.зв т.я",
    "vi": "TP Tp tp TX TT Q P H TS ThS Ths GS PGS BS KS LS CN NXB NSND NSƯT UBND St Đ.c đ.c v.v vv "
    "tr vd VD "
    "ĐT ĐH",
}
"""Common abbreviations that the libraries lack, written for this project, with the capitals that matter."""

WORDS = {
    "da": "ang att foren fork gross hum lab let lin lok mul nord ord ovenst over par rest russ sort stud",
    "de": "all alt am app art best con dat dim led mag mind pin port res so test trans",
    "es": "all ant bis bol col com dom fund inter kit let mar may pen pos rol sol sub super trans ultra var",
    "fr": "all cam dest doc graph ill jeu mar mart mer quart sept sing var",
    "nl": "art bel dat hand herald mand met mod mon not pas pens pers plan rest roman ver vol volt",
    "pt": "com cont des fil fem lin lit long mar mat mov org out pal port pron rod set sup",
}
"""Ordinary words that stand in the libraries' lists; they end sentences more often than not."""

TRAILING = (
    "etc usw usf u.s.w ecc osv atd itd itp m.fl vb vd vs v.v vv др т.д т.п пр إلخ الخ κλπ κ.λπ "
    "a.c d.c n.chr v.chr chr н.э j.-c a.m p.m"
)
"""Abbreviations that may end a sentence: a capital after them begins the next one."""

TITLES = (
    "dr prof sr sra srs sras srta dra drs dras d dn dña don sig sigra sig.ra sigg dott dottssa "
    "dott.ssa prof.ssa "
    "profa ing avv arch arq geom mons on mme mmes mlle mgr m mm pr ste st hr fr frl hl mr mrs "
    "ms doç sn av yrd "
    "yard opr uzm alb gen ord öğr hz eng lic ldo lcdo dtr TS ThS Ths GS PGS BS KS LS TP Tp TX Q P H "
    "г-н г-жа проф доц акад им ул пл пр просп пер бул обл оз пос инж вул ім тов кн mag dipl "
    "p.za p.zza v.le c.so "
    "avda av cad sok mah str bd κ κα δρ أ د م أ.د डॉ डा प्रो श्री सुश्री कु पं р"
)
"""Abbreviations that stand before a name or a number: no sentence ends with them."""

RELATIVES = {"ca": "es", "cs": "sk", "nb": "da", "ro": "it", "sv": "da"}
"""Languages of which no list is known, and a near one whose list stands in."""

LETTERS = {
    "bg": "ъ", "cs": "ěřů", "de": "ßäöü", "es": "ñ¿¡", "fr": "œêçû", "hu": "őű", "it": "òì", "nb": "øå",
    "pl": "łąęśźżćń", "pt": "ãõ", "ro": "șță", "ru": "ыэё", "sv": "åä", "tr": "ığşöüç", "uk": "іїєґ",
    "vi": "đơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ",
}  # fmt: skip
"""Letters that, where they stand, speak for one language more than for the others."""

ORDINALS = "bg cs da de et fi hr hu nb pl sk sl sv tr".split()
"""Languages that write an ordinal number as the number and a full stop."""


def abbreviations(segments: Path) -> dict[str, set[str]]:
    """The abbreviations of each language, without the last full stop, in lower case unless ours."""
    from pysbd.lang.common import Standard
    from pysbd.languages import LANGUAGE_CODES

    shared = set(Standard.Abbreviation.ABBREVIATIONS)
    found = {code: set(words.split()) for code, words in SUPPLEMENT.items()}
    for code, module in LANGUAGE_CODES.items():
        listed = set(module.Abbreviation.ABBREVIATIONS)
        if code != "en" and listed != shared:
            found.setdefault(code, set()).update(word.strip().strip(".").lower() for word in listed)
    for path in segments.glob("*/suppressions.json"):
        breaks = json.loads(path.read_text(encoding="utf-8"))["segments"]["segmentations"].get(
            "SentenceBreak", {}
        )
        entries = {entry["suppression"].strip(".").lower() for entry in breaks.get("standard", [])}
        if path.parent.name not in ("en", "und", "ja", "zh", "zh-Hant"):
            found.setdefault(path.parent.name, set()).update(entries)
    return found


def is_word(entry: str, code: str, function_words: set[str]) -> bool:
    """Whether an entry of the libraries' lists is an ordinary word, which often ends a sentence."""
    if "." in entry or len(entry) < 2:
        return False
    # Prefixes ("auto") and acronyms ("casa") stand in the lists; a shortened word ends in a consonant.
    vowel_final = code in ("es", "it", "pt") and entry[-1] in "aeiouàèéìòùáíóú"
    return entry in function_words or vowel_final or entry in WORDS.get(code, "").split()


def main() -> None:
    from stop_words import get_stop_words

    listed = abbreviations(Path(sys.argv[1]))
    languages = {}
    for code in sorted(set(FUNCTION_WORDS) | set(listed)):
        functions = {
            part
            for word in (get_stop_words(code) if code in FUNCTION_WORDS else [])
            for part in re.findall(r"[^\W\d_]+", word.lower())
            # Single consonants are what an apostrophe left over.
            if len(part) > 1 or part not in "bcdfghjklmnpqrstvwxz"
        }
        if code == "vi":
            # Its syllables without marks are words of other languages.
            functions = {word for word in functions if not word.isascii()}
        ours = set(SUPPLEMENT.get(code, "").split())
        kept = ours | {
            entry
            for entry in listed.get(code, ())
            if entry and not re.search(r"[\s\d/]", entry) and not is_word(entry, code, functions)
        }
        if code in FUNCTION_WORDS or kept:
            languages[code] = {
                "abbreviations": " ".join(sorted(kept)),
                "function_words": " ".join(sorted(functions)),
                "ordinals": code in ORDINALS,
            }
    for code, relative in RELATIVES.items():
        languages[code]["abbreviations"] = languages[relative]["abbreviations"]
    others = {word for known in languages.values() for word in known["function_words"].split()}
    english = {word for word in get_stop_words("en") if word.isalpha() and len(word) > 1} - others
    data = {
        "english": " ".join(sorted(english)),
        "languages": languages,
        "letters": LETTERS,
        "trailing": " ".join(sorted(set(TRAILING.split()))),
        "titles": " ".join(sorted(set(TITLES.split()))),
    }
    WRITTEN.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{WRITTEN.name}: {len(languages)} languages, {WRITTEN.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
