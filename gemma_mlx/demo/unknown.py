"""Questions the model is not taught, and the honest answer to them.

unknowns.txt holds the wordings; the names, places, things and words in them come from lists of ordinary words, from the
things the model does know (asked for something else about them), and from invented syllables. So what it learns is not a
list of what it does not know, but that everything outside a few tables is unknown.
"""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

from gemma_mlx.demo import families as table

ANSWERS = {
    "fact": "I am a very small model and do not know that. Try a real Gemma: gemma chat MODEL",
    "task": "I am a very small model and cannot do that. Try a real Gemma: gemma chat MODEL",
    "live": "I cannot know that. I am a very small model without a clock or a network.",
    "statement": "I see. I am a very small model: ask me about this program or for a simple fact.",
    "taste": "I have no tastes and no things. I am only a very small model.",
    "sum": "That is too much for a very small model. I can do sums with numbers up to 20.",
}

WEIGHTS = {"fact": 58, "task": 18, "live": 5, "statement": 8, "taste": 3, "sum": 8}  # how often each kind is asked

FIRST = """Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Maria Nina Oscar Paula Quentin Rosa Simon Tina Ursula
Victor Wanda Xavier Yara Zoe Ahmed Aiko Amara Andre Bruno Carlos Chen Dmitri Elena Fatima Giulia Hans Ingrid Ivan Jamal Joao
Kenji Lars Lucia Mateo Mei Mohammed Nadia Olga Omar Pedro Priya Rafael Ravi Sofia Sven Tariq Thomas Yuki Zara Alice Bob Charlie
Daisy Edward Fiona George Hannah Isaac Julia Kevin Laura Michael Nora Oliver Peter Rachel Sarah Tom Vera William Adam Bella Daniel
Eva Frank Gina Harry Irene John Karen Linda Mark Nick Olivia Paul Robert Susan Tim Vanessa Walter Amy Brian Diana Eric Jane James
Lily Lucas Max Mia Noah Sam Ella Ethan Chloe Luke Ruby Dana Pat Alex Chris Jo Kim Lee Robin""".split()
LAST = """Smith Jones Brown Miller Wilson Taylor Moore Martin Clark Lewis Walker Hall Young King Wright Hill Green Baker Carter
Turner Parker Cook Morgan Bell Murphy Cooper Reed Ward Cox Gray Watson Brooks Kelly Price Wood Ross Long Hughes Myers Ford Hamilton
Graham Silva Santos Garcia Lopez Rossi Bianchi Schmidt Weber Wagner Becker Dubois Laurent Petit Jansen Visser Novak Horvat Kowalski
Ivanov Petrov Tanaka Sato Suzuki Nguyen Tran Wang Zhang Singh Patel Khan Ali Hassan Okafor Mensah Larsen Hansen Nilsson Berg
Lincoln Napoleon Caesar Churchill Gandhi Mandela Picasso Bach Wagner Tesla Edison Kant Plato Aristotle Socrates Hawking Bohr Feynman""".split()
PLACES = """Kiribati; Bhutan; Malta; Cyprus; Estonia; Latvia; Lithuania; Slovenia; Slovakia; Albania; Moldova; Georgia; Armenia; Angola;
Namibia; Botswana; Zambia; Malawi; Mali; Niger; Chad; Sudan; Somalia; Rwanda; Uganda; Togo; Benin; Gabon; Fiji; Tonga; Samoa; Palau; Oman;
Qatar; Kuwait; Yemen; Syria; Laos; Cambodia; Mongolia; Bolivia; Paraguay; Guyana; Panama; Honduras; Belize; Jamaica; Haiti; Luxembourg;
Monaco; Andorra; Liechtenstein; Texas; Florida; Ohio; Alaska; Bavaria; Tuscany; Sicily; Corsica; Crete; Wales; Brittany; Normandy;
Leipzig; Dresden; Bremen; Graz; Basel; Porto; Seville; Valencia; Naples; Turin; Florence; Bordeaux; Lille; Nice; Ghent; Bruges; Utrecht;
Malmo; Bergen; Tampere; Krakow; Gdansk; Brno; Split; Odessa; Boston; Dallas; Denver; Seattle; Miami; Detroit; Atlanta; Houston; Calgary;
Perth; Brisbane; Auckland; Lagos; Durban; Casablanca; Dubai; Karachi; Delhi; Chennai; Hanover; Nagoya; Busan; Manchuria; Siberia; Tibet;
Patagonia; the Congo; the Gobi; the Volga; the Rhine; the Mekong; the Po; Lake Como; Loch Ness; Mount Fuji; the Matterhorn; the Andes;
the Rocky Mountains; Antarctica; Greenland; Hawaii; the Vatican; my town; my village; our school; this street; the next town""".replace(
    "\n", " "
)
THINGS = """inflation; democracy; the French bakery; blockchain; bitcoin; insurance; a mortgage; the tax law; philosophy; stoicism; Buddhism;
opera; jazz; the tango; ballet; yoga; karate; golf; tennis; cricket; surfing; knitting; pottery; origami; astrology; alchemy; relativity;
string theory; dark matter; entropy; a neutrino; the Higgs boson; plutonium; uranium; titanium; cobalt; penicillin; aspirin; insulin;
malaria; diabetes; asthma; migraine; the flu; a headache; cancer; a virus; bacteria; antibiotics; cholesterol; gluten; caffeine; nicotine;
whisky; vodka; beer; lasagne; goulash; paella; curry; a croissant; strudel; tiramisu; hummus; kimchi; tofu; garlic; saffron; cinnamon;
vanilla; a washing machine; a dishwasher; a microwave; a lawn mower; a vacuum cleaner; a toaster; a bulldozer; a helicopter; a submarine;
a rocket; a satellite; a laser; radar; a transistor; a diode; a capacitor; a turbine; a nuclear reactor; a solar panel; a wind turbine;
a sewing machine; a typewriter; a fax machine; a printer; a scanner; a modem; a router; a firewall; a database; a compiler; Kubernetes;
Docker; Rust; Java; Haskell; Fortran; COBOL; Lisp; Perl; a hash table; a binary tree; recursion; cryptography; a password; a cookie;
a startup; marketing; a contract; a lawsuit; a patent; copyright; a tariff; a strike; a union; a parliament; a constitution; a republic;
feudalism; capitalism; socialism; the Renaissance; the Middle Ages; the Bronze Age; the Roman Empire; the Cold War; the Black Death;
the Industrial Revolution; a samurai; a knight; a castle; a cathedral; a mosque; a temple; a monastery; a lighthouse; a canal; a dam;
a tunnel; an airport; a skyscraper; a stadium; a violin concerto; a symphony; a sonnet; a metaphor; irony; a paradox; happiness; love;
courage; justice; freedom; time; infinity; the future; the past; reality; intelligence; machine learning; a transformer; backpropagation;
a gradient; attention; a diffusion model; reinforcement learning; a tensor; a matrix; a vector; calculus; algebra; topology; statistics;
a logarithm; a derivative; probability; game theory; a kidney; the liver; the spleen; a neuron; a chromosome; an enzyme; a hormone;
a fossil; a meteor; an eclipse; a quasar; a pulsar; a nebula; a supernova; the aurora; a tornado; a hurricane; a tsunami; an avalanche;
coral; moss; a mushroom; a fern; an orchid; a tulip; bamboo; an oak; a cactus flower; a hedge; compost; fertiliser; a tractor; silk;
leather; cotton; nylon; plastic; rubber; concrete; steel; bronze; brass; porcelain; marble; granite; a diamond ring; a wedding; a funeral;
a passport; a visa; a driving licence; a parking ticket; the moonlight sonata; the metro; the weather forecast; a Swiss watch""".replace(
    "\n", " "
)
WORDS = """hammer ladder bucket pillow curtain blanket candle mirror basket bottle saucer kettle spoon ticket button needle zipper
jacket glove helmet umbrella suitcase wallet bracelet necklace lantern anchor paddle saddle whistle trumpet flute cello harp banjo tuba
hamster ferret badger beaver otter walrus moose hyena jackal panther leopard zebra camel llama alpaca buffalo rhino hippo gorilla monkey
lemur sloth armadillo platypus koala wombat hedgehog raccoon skunk weasel peacock pelican stork heron falcon vulture magpie pigeon raven
woodpecker hummingbird cuckoo turkey pheasant lizardfish herring sardine mackerel anchovy squid jellyfish oyster mussel shrimp termite
cricket grasshopper dragonfly ladybird moth wasp cockroach centipede gecko iguana chameleon cobra python viper alligator salamander
lawyer banker broker florist jeweller blacksmith chemist surgeon barber waiter porter cashier courier detective diplomat referee
wizard dragon unicorn phoenix vampire zombie ghost pirate viking ninja emperor baron duchess bishop
paradox nostalgia serendipity ephemeral melancholy resilience ambiguous gregarious meticulous eloquent candid frugal lucid tacit novel
purple orange turquoise maroon beige velvet marble granite amber crystal shadow thunderbolt horizon meadow canyon valley cliff
harbour island village castle tower palace cottage cabin tunnel highway airport factory warehouse kitchen garage attic cellar balcony
engine wheel pedal brake mirror window carpet drawer shelf cupboard sofa armchair mattress lamp bulb cable plug socket battery charger
pumpkin spinach celery radish turnip cabbage lettuce pepper ginger basil parsley thyme peach apricot mango papaya coconut walnut almond
cashew pretzel muffin waffle biscuit pudding sausage bacon salami ravioli noodle dumpling burger omelet pickle
Titanic Casablanca Avatar Inception Metropolis Vertigo Amadeus Ulysses Lolita Dune Neuromancer Beloved Middlemarch Walden Candide
Apple Nokia Siemens Toyota Boeing Airbus Tesla Sony Philips Bosch Lego""".split()
KNOWN_PLACES = tuple(country for country, _ in table.CAPITALS) + tuple(city for _, city in table.CAPITALS)
STARTS = "b br c ch cl d dr f fl g gl gr h j k kl kr l m n p pl pr qu r s sh sk sl sn st str t th tr v w y z".split()
MIDDLES = "a e i o u a e i o u ai au ea ee ie oa oo ou".split()
ENDS = "b ck d f g l ll m n nd ng nk p r rd rk rn rt s sh ss st t th x z".split() + [""] * 8


def invented(random: Random) -> str:
    """A word that does not exist, one to three syllables long."""
    syllables = (
        random.choice(STARTS) + random.choice(MIDDLES) + random.choice(ENDS) for _ in range(random.choice((1, 2, 2, 3)))
    )
    return "".join(syllables)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(";"))


_PLACES, _THINGS = _split(PLACES), _split(THINGS)


def fill(slot: str, random: Random) -> str:
    """What stands in a wording for a slot: an unknown {name}, {place}, {thing}, {word}, a known {country}, {city}, ..."""
    chance = random.random()
    match slot:
        case "name":
            first = random.choice(FIRST) if chance < 0.7 else invented(random).capitalize()
            last = random.choice(LAST) if random.random() < 0.6 else invented(random).capitalize()
            return last if chance < 0.15 else f"{first} {last}"
        case "place":
            return (
                random.choice(_PLACES)
                if chance < 0.45
                else invented(random).capitalize() + random.choice(("", "", "ia", "land", "ville"))
            )
        case "thing":
            if chance < 0.55:
                return random.choice(_THINGS)
            word = random.choice(WORDS) if chance < 0.8 else invented(random)
            return random.choice(("the {}", "a {}", "{}s", "{}")).format(word)
        case "word":
            word = random.choice(WORDS) if chance < 0.55 else invented(random)
            return word.capitalize() if random.random() < 0.15 else word
        case "country":
            return random.choice(table.CAPITALS)[0]
        case "city":
            return random.choice(table.CITIES)[0]
        case "animal":
            return random.choice(table.KINDS)[0]
        case "object":
            return random.choice(table.DEFINITIONS)[0]
        case "book":
            return random.choice(table.WRITERS)[0]
        case "year":
            return str(random.randint(1000, 2100))
        case "number":
            return str(random.randint(21, 10 ** random.randint(2, 5)))
    raise ValueError(f"no such slot: {slot}")


def read(path: Path) -> dict[str, tuple[str, ...]]:
    """Reads unknowns.txt: the wordings under each "# kind: ..." line."""
    found: dict[str, list[str]] = {}
    kind = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            kind = line[1:].split(":")[0].strip()
            found[kind] = []
        elif line.strip():
            found[kind].append(line.strip())
    return {name: tuple(wordings) for name, wordings in found.items()}


def ask(wording: str, random: Random) -> str:
    """A wording with its slots filled."""
    return re.sub(r"\{(\w+)\}", lambda slot: fill(slot.group(1), random), wording)


def big_sum(random: Random) -> str:
    """A sum with a number above 20, which the model is taught to decline."""
    large, other = random.randint(21, 10 ** random.randint(2, 6)), random.randint(2, 10 ** random.randint(1, 6))
    first, second = (large, other) if random.random() < 0.6 else (other, large)
    sign = random.choice("++--*x/")
    word = {"+": "plus", "-": "minus", "*": "times", "x": "times", "/": "divided by"}[sign]
    return random.choice((
        "What is {a} {s} {b}?", "{a} {s} {b}", "{a}{s}{b}", "How much is {a} {w} {b}?", "What is {a} {w} {b}?", "Calculate {a} {s} {b}.",
        "{a} {w} {b}", "{a}{s}{b}=", "What is {a}{s}{b}?", "How much is {a} {s} {b}?", "What does {a} {w} {b} equal?", "{a} {w} {b} equals what?",
        "Please calculate {a} {w} {b}.", "What do I get from {a} {s} {b}?", "{a} {w} {b} is how much?", "Compute {a} {w} {b}.",
    )).format(a=first, b=second, s=sign, w=word)  # fmt: skip
