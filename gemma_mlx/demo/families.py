"""Everyday facts that come in rows: one table, several wordings, one answer.

A family is a table whose rows fill the wordings in `ask`; `answer` is what the model learns to say, `short` what it says
when asked for one word, `follow` how a second question of the same kind is put ("And of Italy?"). The facts are common
knowledge, written down for this project. `corpus.py` turns families into dialogues; the wordings in heldout.txt are not here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Family:
    """A table of facts of one kind.

    Attributes:
        name: what the facts are about.
        rows: the fields of each fact, `{0}`, `{1}`, ... in the wordings.
        ask: wordings of the question.
        answer: the full answer.
        short: the answer in one word, or "" where there is none.
        follow: how the question is put again for another row.
        weight: how often the family is drawn, relative to the number of its rows.
    """

    name: str
    rows: tuple[tuple[str, ...], ...]
    ask: tuple[str, ...]
    answer: str
    short: str = ""
    follow: tuple[str, ...] = ()
    weight: float = 1.0


def rows(text: str) -> tuple[tuple[str, ...], ...]:
    """Reads "a: b; c: d" into (("a", "b"), ("c", "d"))."""
    return tuple(
        tuple(field.strip() for field in row.split(":")) for row in text.replace("\n", " ").split(";") if row.strip()
    )


CAPITALS = rows("""
    France: Paris; Germany: Berlin; Italy: Rome; Spain: Madrid; Portugal: Lisbon; the United Kingdom: London; England: London;
    Scotland: Edinburgh; Ireland: Dublin; Norway: Oslo; Sweden: Stockholm; Denmark: Copenhagen; Finland: Helsinki;
    Iceland: Reykjavik; the Netherlands: Amsterdam; Belgium: Brussels; Austria: Vienna; Switzerland: Bern; Poland: Warsaw;
    the Czech Republic: Prague; Hungary: Budapest; Greece: Athens; Turkey: Ankara; Russia: Moscow; Ukraine: Kyiv;
    Romania: Bucharest; Bulgaria: Sofia; Croatia: Zagreb; Serbia: Belgrade; Egypt: Cairo; Morocco: Rabat; Kenya: Nairobi;
    Nigeria: Abuja; Ethiopia: Addis Ababa; Ghana: Accra; Senegal: Dakar; Japan: Tokyo; China: Beijing; South Korea: Seoul;
    India: New Delhi; Pakistan: Islamabad; Nepal: Kathmandu; Thailand: Bangkok; Vietnam: Hanoi; the Philippines: Manila;
    Malaysia: Kuala Lumpur; Australia: Canberra; New Zealand: Wellington; Canada: Ottawa; the United States: Washington, D.C.;
    the USA: Washington, D.C.; Mexico: Mexico City; Cuba: Havana; Brazil: Brasilia; Argentina: Buenos Aires; Chile: Santiago;
    Peru: Lima; Colombia: Bogota; Venezuela: Caracas; Uruguay: Montevideo; Ecuador: Quito; Iran: Tehran; Iraq: Baghdad;
    Saudi Arabia: Riyadh; Jordan: Amman; Lebanon: Beirut
""")
CITIES = tuple((city, country) for country, city in CAPITALS if country not in {"England", "the USA"}) + rows("""
    Milan: Italy; Venice: Italy; Barcelona: Spain; Munich: Germany; Hamburg: Germany; Lyon: France; Manchester: England;
    Istanbul: Turkey; New York: the United States; Chicago: the United States; Los Angeles: the United States;
    Toronto: Canada; Sydney: Australia; Melbourne: Australia; Mumbai: India; Shanghai: China; Osaka: Japan; Kyoto: Japan;
    Rio de Janeiro: Brazil; Geneva: Switzerland; Zurich: Switzerland
""")
CONTINENTS = rows("""
    France: Europe; Germany: Europe; Italy: Europe; Spain: Europe; Portugal: Europe; Ireland: Europe; Norway: Europe;
    Sweden: Europe; Poland: Europe; Greece: Europe; Austria: Europe; Finland: Europe; Egypt: Africa; Morocco: Africa;
    Kenya: Africa; Nigeria: Africa; Ghana: Africa; Senegal: Africa; Japan: Asia; China: Asia; India: Asia; Nepal: Asia;
    Thailand: Asia; Vietnam: Asia; South Korea: Asia; Canada: North America; Mexico: North America;
    the United States: North America; Cuba: North America; Brazil: South America; Argentina: South America;
    Chile: South America; Peru: South America; Colombia: South America
""")
LANGUAGES = rows("""
    France: French; Germany: German; Austria: German; Italy: Italian; Spain: Spanish; Portugal: Portuguese; Brazil: Portuguese;
    Mexico: Spanish; Argentina: Spanish; Chile: Spanish; Cuba: Spanish; Japan: Japanese; Poland: Polish; Greece: Greek;
    Turkey: Turkish; Russia: Russian; Hungary: Hungarian; Sweden: Swedish; Norway: Norwegian; Denmark: Danish;
    Iceland: Icelandic; the Netherlands: Dutch; Egypt: Arabic; Australia: English; England: English;
    the United States: English; South Korea: Korean; Vietnam: Vietnamese; Thailand: Thai; Iran: Persian
""")
MONEY = rows("""
    Japan: yen; the United States: dollar; the United Kingdom: pound; India: rupee; Germany: euro; France: euro; Italy: euro;
    Spain: euro; China: yuan; Russia: rouble; Mexico: peso; Poland: zloty; Sweden: krona; Norway: krone; Turkey: lira;
    South Korea: won; Switzerland: franc; Thailand: baht; Canada: dollar; Ireland: euro; Greece: euro
""")
OPPOSITES = rows("""
    hot: cold; big: small; large: small; tall: short; long: short; fast: slow; high: low; old: young; new: old; good: bad;
    happy: sad; light: dark; heavy: light; strong: weak; hard: soft; wet: dry; full: empty; open: closed; rich: poor; up: down;
    left: right; in: out; on: off; day: night; early: late; near: far; clean: dirty; loud: quiet; thick: thin; wide: narrow;
    deep: shallow; sharp: blunt; rough: smooth; sweet: sour; true: false; right: wrong; first: last; front: back; top: bottom;
    inside: outside; always: never; love: hate; win: lose; begin: end; start: stop; buy: sell; give: take; push: pull;
    laugh: cry; alive: dead; asleep: awake; brave: afraid; easy: difficult; simple: complicated; beautiful: ugly; cheap: expensive;
    friend: enemy; north: south; east: west; summer: winter; black: white; yes: no; before: after; above: below; noisy: quiet;
    cold: hot; small: big; slow: fast; low: high; young: old; bad: good; sad: happy; dark: light; weak: strong; soft: hard;
    dry: wet; empty: full; closed: open; poor: rich; down: up; out: in; off: on; night: day; late: early; far: near;
    dirty: clean; quiet: loud; thin: thick; narrow: wide; shallow: deep; smooth: rough; false: true; wrong: right;
    last: first; back: front; bottom: top; never: always; hate: love; lose: win; end: beginning; sell: buy; pull: push;
    cry: laugh; dead: alive; awake: asleep; difficult: easy; ugly: beautiful; expensive: cheap; enemy: friend; south: north;
    west: east; winter: summer; white: black; no: yes; after: before; below: above; short: long
""")
SOUNDS = rows("""
    a dog: barks; a cat: meows; a cow: moos; a sheep: bleats; a horse: neighs; a pig: oinks; a duck: quacks; a lion: roars;
    a bee: buzzes; a snake: hisses; a frog: croaks; an owl: hoots; a wolf: howls; a donkey: brays; a mouse: squeaks;
    a rooster: crows; a goat: bleats; a hen: clucks; a crow: caws; a tiger: roars; a bird: sings
""")
BABIES = rows("""
    dog: puppy; cat: kitten; cow: calf; sheep: lamb; horse: foal; pig: piglet; hen: chick; duck: duckling; goose: gosling;
    lion: cub; bear: cub; frog: tadpole; goat: kid; deer: fawn; kangaroo: joey; swan: cygnet; elephant: calf; whale: calf;
    fox: cub; rabbit: kit; seal: pup; wolf: pup; tiger: cub; owl: owlet; butterfly: caterpillar
""")
KINDS = rows("""
    dog: mammal; cat: mammal; whale: mammal; dolphin: mammal; bat: mammal; elephant: mammal; horse: mammal; cow: mammal;
    mouse: mammal; lion: mammal; kangaroo: mammal; bear: mammal; seal: mammal; rabbit: mammal; giraffe: mammal;
    eagle: bird; penguin: bird; owl: bird; duck: bird; ostrich: bird; parrot: bird; hen: bird; swan: bird; sparrow: bird;
    shark: fish; salmon: fish; tuna: fish; trout: fish; goldfish: fish; snake: reptile; lizard: reptile; turtle: reptile;
    crocodile: reptile; frog: amphibian; toad: amphibian; newt: amphibian; bee: insect; ant: insect; butterfly: insect;
    fly: insect; beetle: insect; mosquito: insect; spider: arachnid; scorpion: arachnid; crab: crustacean;
    lobster: crustacean; snail: mollusc; octopus: mollusc
""")
LEGS = rows("""
    dog: four; cat: four; cow: four; horse: four; elephant: four; lion: four; frog: four; pig: four; mouse: four; bird: two;
    hen: two; duck: two; penguin: two; person: two; human: two; ant: six; bee: six; fly: six; beetle: six; butterfly: six;
    insect: six; spider: eight; scorpion: eight; crab: ten; snake: no; fish: no; worm: no
""")
FOOD = rows("""
    cows: grass; horses: grass and hay; sheep: grass; rabbits: grass and vegetables; lions: meat; cats: meat and fish;
    dogs: mostly meat; pandas: bamboo; koalas: eucalyptus leaves; giraffes: leaves; owls: mice; spiders: insects;
    frogs: insects; squirrels: nuts; bees: nectar and pollen; penguins: fish; mice: seeds and grain; tigers: meat;
    sharks: fish; caterpillars: leaves
""")
SIZES = (
    "ant",
    "bee",
    "mouse",
    "frog",
    "rat",
    "rabbit",
    "cat",
    "fox",
    "dog",
    "wolf",
    "pig",
    "lion",
    "bear",
    "horse",
    "elephant",
    "whale",
)
COLOURS = rows("""
    grass: green; the sky: blue; snow: white; blood: red; a banana: yellow; a lemon: yellow; coal: black; milk: white;
    an orange: orange; a carrot: orange; a tomato: red; a strawberry: red; the sun: yellow; an elephant: grey; chocolate: brown;
    a leaf: green; a polar bear: white; a flamingo: pink; a frog: green; gold: yellow; silver: grey; salt: white; a crow: black;
    a cucumber: green; a cherry: red; a fire engine: red; a ripe plum: purple; the sea: blue; wood: brown; an emerald: green;
    a ruby: red; a sapphire: blue; ketchup: red; mustard: yellow; a swan: white; broccoli: green; coffee: brown; sugar: white
""")
MIXES = rows("""
    red: yellow: orange; yellow: red: orange; blue: yellow: green; yellow: blue: green; red: blue: purple; blue: red: purple;
    red: white: pink; white: red: pink; black: white: grey; white: black: grey
""")
PLANETS = rows("""
    Mercury: first; Venus: second; Earth: third; Mars: fourth; Jupiter: fifth; Saturn: sixth; Uranus: seventh; Neptune: eighth
""")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
MONTH_DAYS = ("31", "28 or 29", "31", "30", "31", "30", "31", "31", "30", "31", "30", "31")
ORDER = (
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
UNITS = rows("""
    seconds: a minute: 60; minutes: an hour: 60; hours: a day: 24; days: a week: 7; weeks: a year: 52; days: a year: 365;
    months: a year: 12; years: a decade: 10; years: a century: 100; years: a millennium: 1000; days: a leap year: 366;
    seconds: an hour: 3600; minutes: a day: 1440; centimetres: a metre: 100; millimetres: a centimetre: 10;
    metres: a kilometre: 1000; grams: a kilogram: 1000; kilograms: a tonne: 1000; millilitres: a litre: 1000;
    inches: a foot: 12; feet: a yard: 3; cents: a dollar: 100; pence: a pound: 100; eggs: a dozen: 12; bits: a byte: 8;
    bytes: a kilobyte: 1000; degrees: a circle: 360; letters: the alphabet: 26; players: a football team: 11;
    players: a basketball team: 5; cards: a deck: 52; squares: a chessboard: 64; strings: a violin: 4; strings: a guitar: 6;
    planets: the solar system: 8; colours: the rainbow: 7; days: a weekend: 2; weeks: a month: about 4;
    seasons: a year: 4; quarters: a year: 4; bones: the human body: 206; continents: the world: 7; oceans: the world: 5
""")
SHAPES = rows("""
    triangle: three; square: four; rectangle: four; pentagon: five; hexagon: six; heptagon: seven; octagon: eight;
    decagon: ten; circle: no
""")
SYMBOLS = rows("""
    gold: Au; silver: Ag; iron: Fe; copper: Cu; oxygen: O; hydrogen: H; carbon: C; nitrogen: N; helium: He; sodium: Na; lead: Pb;
    calcium: Ca; zinc: Zn; tin: Sn; mercury: Hg; neon: Ne; chlorine: Cl; potassium: K; sulphur: S; aluminium: Al
""")
PLURALS = rows("""
    mouse: mice; child: children; foot: feet; tooth: teeth; man: men; woman: women; goose: geese; person: people; sheep: sheep;
    fish: fish; leaf: leaves; knife: knives; wolf: wolves; life: lives; ox: oxen; cat: cats; dog: dogs; box: boxes; baby: babies;
    city: cities; half: halves; potato: potatoes; bus: buses; deer: deer; cactus: cacti; wife: wives; loaf: loaves
""")
PASTS = rows("""
    go: went; eat: ate; see: saw; run: ran; write: wrote; take: took; give: gave; come: came; buy: bought; think: thought;
    drink: drank; swim: swam; sing: sang; speak: spoke; break: broke; drive: drove; fly: flew; know: knew; sleep: slept;
    find: found; make: made; say: said; teach: taught; walk: walked; play: played; begin: began; bring: brought; fall: fell
""")
HELLOS = rows("""
    French: Bonjour; German: Hallo; Italian: Ciao; Spanish: Hola; Portuguese: Olá; Japanese: Konnichiwa; Swedish: Hej;
    Hawaiian: Aloha; Polish: Cześć; Dutch: Hallo; Danish: Hej; Turkish: Merhaba; Finnish: Hei
""")
THANKS = rows("""
    French: Merci; German: Danke; Italian: Grazie; Spanish: Gracias; Portuguese: Obrigado; Japanese: Arigato; Swedish: Tack;
    Polish: Dziękuję; Dutch: Dank je; Danish: Tak; Finnish: Kiitos
""")
WRITERS = rows("""
    Hamlet: William Shakespeare; Romeo and Juliet: William Shakespeare; Macbeth: William Shakespeare; Don Quixote: Miguel de Cervantes;
    Pride and Prejudice: Jane Austen; Emma: Jane Austen; Oliver Twist: Charles Dickens; A Christmas Carol: Charles Dickens;
    War and Peace: Leo Tolstoy; Anna Karenina: Leo Tolstoy; Faust: Goethe; The Odyssey: Homer; The Iliad: Homer;
    The Divine Comedy: Dante; Frankenstein: Mary Shelley; Dracula: Bram Stoker; Moby Dick: Herman Melville;
    Alice in Wonderland: Lewis Carroll; The Hobbit: J. R. R. Tolkien; Harry Potter: J. K. Rowling; 1984: George Orwell;
    Animal Farm: George Orwell; Sherlock Holmes: Arthur Conan Doyle; Les Miserables: Victor Hugo; The Little Prince: Antoine de Saint-Exupery;
    Treasure Island: Robert Louis Stevenson; Pinocchio: Carlo Collodi; Peter Pan: J. M. Barrie; The Jungle Book: Rudyard Kipling
""")
PAINTERS = rows("""
    the Mona Lisa: Leonardo da Vinci; The Last Supper: Leonardo da Vinci; The Starry Night: Vincent van Gogh;
    Sunflowers: Vincent van Gogh; Guernica: Pablo Picasso; The Night Watch: Rembrandt; The Scream: Edvard Munch;
    Girl with a Pearl Earring: Johannes Vermeer; The Birth of Venus: Sandro Botticelli; Water Lilies: Claude Monet
""")
INVENTORS = rows("""
    the telephone: Alexander Graham Bell; the World Wide Web: Tim Berners-Lee; dynamite: Alfred Nobel; Linux: Linus Torvalds;
    Python: Guido van Rossum; Braille: Louis Braille; the diesel engine: Rudolf Diesel; the phonograph: Thomas Edison;
    the battery: Alessandro Volta; the C language: Dennis Ritchie; the printing press in Europe: Johannes Gutenberg
""")
JOBS = rows("""
    baker: bakes bread; doctor: treats sick people; teacher: teaches students; farmer: grows food; pilot: flies planes;
    cook: prepares meals; painter: paints pictures; writer: writes books; dentist: takes care of teeth; gardener: takes care of plants;
    carpenter: makes things of wood; tailor: makes clothes; firefighter: puts out fires; nurse: cares for patients;
    plumber: repairs pipes; mechanic: repairs machines; singer: sings songs; actor: plays roles on stage or in films;
    architect: designs buildings; judge: decides cases in court; librarian: looks after books; astronaut: travels into space;
    butcher: prepares and sells meat; sailor: works on a ship; programmer: writes computer programs; vet: treats sick animals
""")
SYNONYMS = rows("""
    big: large; small: little; fast: quick; happy: glad; sad: unhappy; smart: clever; begin: start; end: finish; angry: cross;
    beautiful: pretty; hard: difficult; easy: simple; rich: wealthy; ill: sick; quiet: silent; strange: odd; brave: courageous;
    tired: sleepy; shout: yell; help: assist; buy: purchase; answer: reply; funny: amusing; huge: enormous; important: major
""")
DEFINITIONS = rows("""
    the Sun: the star at the centre of our solar system; the Moon: a ball of rock that circles the Earth;
    a planet: a large round body that circles a star; a star: a huge ball of hot, glowing gas;
    a galaxy: a very large group of stars; a comet: a ball of ice and dust that circles the Sun; the Milky Way: the galaxy we live in;
    a black hole: a place in space with gravity so strong that light cannot escape; gravity: the force that pulls things towards each other;
    light: energy that our eyes can see; sound: a vibration that travels through the air; electricity: energy carried by moving charges;
    an atom: the smallest part of a chemical element; a molecule: a group of atoms joined together; an electron: a tiny particle with a negative charge;
    water: a liquid made of hydrogen and oxygen; ice: frozen water; steam: water that has become a gas; air: a mix of gases, mostly nitrogen and oxygen;
    rain: water that falls from clouds; snow: frozen water that falls from clouds; a cloud: many tiny drops of water in the sky;
    a rainbow: a bow of colours made by sunlight in raindrops; lightning: a flash of electricity in the sky; thunder: the sound of lightning;
    wind: moving air; a storm: strong wind with rain, snow or thunder; fog: a cloud close to the ground; a volcano: a mountain that can throw out lava and ash;
    lava: hot melted rock from a volcano; an earthquake: a shaking of the ground; a river: a large stream of water that flows to a sea or lake;
    a lake: a body of water with land all around it; an island: land with water all around it; an ocean: a very large body of salt water;
    a mountain: land that rises high above its surroundings; a desert: a place with very little rain; a forest: a large area covered with trees;
    a glacier: a slowly moving mass of ice; a tree: a tall plant with a trunk of wood; a flower: the part of a plant that makes seeds;
    a seed: the part of a plant from which a new one grows; a root: the part of a plant that takes up water from the soil;
    photosynthesis: how plants make food from light, water and air; oxygen: a gas that we need to breathe; the heart: the organ that pumps blood through the body;
    the brain: the organ we think with; a lung: the organ we breathe with; the skin: the outer cover of the body; blood: the red liquid that flows through the body;
    a bone: a hard part of the skeleton; a muscle: a part of the body that makes it move; a cell: the smallest living part of a body;
    DNA: the molecule that carries the plan of a living thing; a vitamin: something in food that the body needs in small amounts;
    a mammal: an animal that feeds its young with milk; a bird: an animal with feathers and wings; a fish: an animal that lives in water and breathes with gills;
    a reptile: a cold-blooded animal with scales; an insect: a small animal with six legs; an amphibian: an animal that lives in water and on land;
    a dinosaur: a reptile that lived millions of years ago; bread: a food baked from flour and water; cheese: a food made from milk; butter: fat made from cream;
    honey: a sweet food made by bees; chocolate: a sweet food made from cocoa beans; rice: a grain that many people eat; pasta: a food made from flour and water or eggs;
    a sandwich: two slices of bread with something between them; tea: a drink made from leaves and hot water; coffee: a drink made from roasted beans;
    a computer: a machine that follows programs; a program: a list of steps that a computer follows; a keyboard: a board with keys for typing;
    a mouse for a computer: a small device that moves the pointer; the internet: a network that joins computers all over the world;
    an algorithm: a list of steps that solves a problem; a bug in a program: a mistake in a program; a file: data stored under a name;
    a robot: a machine that can do work by itself; a chip: a small piece of silicon with electronic circuits; memory: where a computer keeps what it is working on;
    a clock: a device that shows the time; a calendar: a table of the days of the year; a map: a drawing of a place seen from above;
    a compass: a device that points to the north; a telescope: a device for looking at things far away; a microscope: a device for looking at very small things;
    a thermometer: a device that measures temperature; a camera: a device that takes pictures; a bicycle: a vehicle with two wheels and pedals;
    a car: a vehicle with an engine and four wheels; a train: a row of wagons that runs on rails; a ship: a large boat; a bridge: a way across a river or a road;
    a dictionary: a book that explains words; a novel: a long story in a book; a poem: a short text with rhythm; a verb: a word for doing something;
    a noun: a word for a thing, a person or a place; an adjective: a word that describes a noun; a vowel: one of the letters A, E, I, O and U;
    an orchestra: a large group of musicians; a piano: an instrument with black and white keys; a violin: an instrument with four strings;
    a drum: an instrument that you hit; chess: a board game for two players; football: a game in which two teams kick a ball; a holiday: a day without work or school;
    money: what we pay with; a bank: a place that keeps money; a school: a place where people learn; a library: a place with many books;
    a hospital: a place where sick people are treated; a museum: a place that shows interesting old or beautiful things; a king: a man who rules a country;
    a queen: a woman who rules a country; a friend: a person you like and trust; a family: people who belong together; a prime number: a number that only 1 and itself divide;
    an even number: a number that 2 divides; an odd number: a number that 2 does not divide; a fraction: a part of a whole; pi: the length of a circle divided by its width, about 3.14;
    a circle: a round shape; a triangle: a shape with three sides; a square: a shape with four equal sides; a cube: a solid with six equal square faces
""")
