"""The word lists behind the rules. Full stops are left out; a dotted abbreviation keeps its inner ones."""

STARTERS = frozenset(
    "A An The This That These Those There Here It Its He His She Her Hers They Their Them We Our You Your "
    "I My Both Each Every Either Neither Some Many Most Much Several All Any Another Other Others None "
    "Nothing Nobody Everyone Everything Someone Something One Two Three Four Five Six Seven Eight Nine "
    "Ten In On At To From For With Without Within By Of Above Below Behind Beside Besides Between Beyond "
    "Near Next Across Along Around Against Among Through Throughout Towards Under Over Inside Outside "
    "Upon Unlike Like And But Or Nor So Yet Then Thus Hence Therefore However Moreover Furthermore "
    "Additionally Also Although Though Because Since While Whereas When Whenever Where Wherever After "
    "Before Until Once Unless If As Instead Meanwhile Nevertheless Nonetheless Otherwise Similarly "
    "Likewise Consequently Accordingly Finally First Firstly Second Secondly Third Lastly Last Overall "
    "Given Based Judging Considering Looking Due Despite Perhaps Maybe Possibly Likely Apparently Notably "
    "Specifically Generally Usually Often Sometimes Still What Who Whom Whose Which Why How Is Are Was "
    "Were Do Does Did Has Have Had Can Could Will Would Shall Should May Might Must Let Please Note Yes "
    "No Not Now Just Only Even Such Same Too Very Well Sure Okay".split()
)
"""Capitalised words that more often begin a sentence than a name."""

TITLES = frozenset(
    "mr mrs ms mx dr prof rev hon gen sen rep gov pres capt cpt cmdr sgt lt col maj st ste mt ft fr sr "
    "mme mlle messrs pvt cpl adm insp supt".split()
)
"""Abbreviations that stand before a name."""

REFERENCES = frozenset(
    "fig figs eq eqs eqn sec secs sect ch chap chs no nos nr vol vols p pp pg pgs par para art tab ver v "
    "ex exs ref refs app ca approx max min avg est circa rs usd deg var cl ln pt pts".split()
)
"""Abbreviations that stand before a number or letter. Some are words as well: "fig", "no", "art", "tab"."""

REFERENCE_ONLY = frozenset(
    "figs eq eqs eqn secs sect chap chs nos nr vol vols pp pgs approx avg est ca rs usd deg".split()
)
"""Those of REFERENCES that are no words: nothing in lower case after them begins a sentence."""

ALWAYS_OPEN = frozenset("e.g eg i.e ie cf vs v.s viz c.f incl excl resp esp a.k.a aka w.r.t".split())
"""Abbreviations in the middle of a phrase: no sentence ends with them."""

SYNTOK_MISTAKES = frozenset(
    "adm alt ap art az brig col de do dom en es excl fr gal gen gob hd incl lit mag mar med mi mio mo mot "
    "nat pag phil sa sab sci so st sun synth tab tel tue vie".split()
)
"""What syntok takes for an abbreviation and is, in lower case, far more often an English word or unknown."""

SUFFIXES = frozenset(
    "inc ltd co corp llc plc bros jr sr esq etc al dept univ assn assoc intl natl govt ave blvd rd hwy "
    "apt bldg ed eds trans ph.d m.d b.a m.a b.sc m.sc ph d.d.s mfg pty gmbh".split()
)
"""Abbreviations that stand after a word and may end a sentence."""

DATES = frozenset(
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri sat sun".split()
)

MONTHS = frozenset(
    "Januar Februar März April Mai Juni Juli August September Oktober November Dezember".split()
)
"""German months: the full stop before them belongs to the day, "3. Mai"."""

UNITS = frozenset(
    "cm mm km kg mg ml kl kb mb gb tb hz khz mhz ghz kw mw lb lbs oz ft yd mi hr hrs sec secs min mins "
    "mph kph km/h sq cu m g l s h tsp tbsp yr yrs wks mos tbs pcs doz in".split()
)

ZONES = frozenset(
    "EST EDT CST CDT MST MDT PST PDT GMT UTC CET BST ET PT CT MT Monday Tuesday Wednesday Thursday Friday "
    "Saturday Sunday Eastern Pacific Central January February March April May June July August September "
    "October November December".split()
)
"""What may follow "a.m." and "p.m." inside a sentence."""

LABELLED = frozenset(
    "is option options answer choice choices part point points figure type class grade group label letter "
    "vitamin plan section picture image column row team gate line and or to be letter".split()
)
"""Words before a single capital letter that is not an initial: "option B", "the answer is C"."""

NUMBERED = frozenset(
    "step steps option figure fig table question part section chapter example case phase point rule tip "
    "answer stage day week lesson level item note exercise problem task scene image".split()
)
"""Words that, with a number or letter, introduce a sentence: "Step 1. Open the lid."."""

AFTER_FULL_WIDTH_QUOTE = frozenset("とっはがをにのもでやな、，的等和与及字是中里表意来作为以时一")
"""Characters that go on with the sentence after a full-width quotation that ends in a full stop."""
