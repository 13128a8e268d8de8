"""What the text encoder is taught about words: colours as they look, names of things as they are used.

Written for this project (CC0). `recipes/text_encoder.py` retrofits the word embeddings to it; the captions of the
training data use only some of these words, and the quality figures say which.
"""

from __future__ import annotations

BASIC_COLORS = {
    "red": (205, 30, 35), "orange": (240, 130, 25), "yellow": (245, 210, 40), "green": (45, 145, 60),
    "blue": (40, 85, 200), "purple": (125, 50, 160), "pink": (245, 140, 180), "brown": (115, 72, 40),
    "black": (22, 22, 24), "white": (245, 245, 245), "gray": (130, 130, 132), "turquoise": (50, 195, 195),
}  # fmt: skip
"""The colours that other words are explained by, sRGB bytes."""

COLOR_WORDS = {
    "grey": (130, 130, 132), "crimson": (190, 20, 50), "scarlet": (225, 30, 20), "ruby": (180, 15, 60),
    "cherry": (200, 20, 45),
    "vermilion": (225, 60, 40), "burgundy": (120, 10, 35), "maroon": (125, 15, 25), "brick": (170, 65, 50),
    "rust": (175, 70, 25),
    "carmine": (170, 10, 40), "garnet": (130, 20, 40), "azure": (45, 130, 230), "navy": (15, 25, 100),
    "cobalt": (20, 70, 180),
    "sapphire": (20, 75, 185), "indigo": (65, 30, 135), "cerulean": (40, 125, 190), "ultramarine": (35, 30, 160),
    "bluish": (60, 100, 200), "denim": (45, 85, 150), "emerald": (25, 155, 90), "olive": (110, 120, 40),
    "jade": (35, 160, 105),
    "lime": (140, 215, 40), "mint": (150, 225, 180), "greenish": (80, 150, 80), "moss": (90, 125, 55),
    "khaki": (165, 150, 95),
    "leafy": (60, 150, 60), "golden": (240, 190, 50), "gold": (235, 190, 50), "lemon": (250, 230, 70),
    "amber": (250, 180, 30),
    "mustard": (220, 175, 45), "yellowish": (235, 215, 90), "canary": (250, 230, 60),
    "saffron": (245, 190, 50), "blond": (240, 215, 120),
    "blonde": (240, 215, 120), "straw": (230, 210, 120), "brass": (215, 180, 70), "tangerine": (245, 135, 30),
    "pumpkin": (240, 125, 25), "apricot": (250, 175, 105), "peach": (250, 190, 150), "coral": (245, 120, 95),
    "copper": (190, 110, 60), "bronze": (165, 115, 60), "terracotta": (205, 105, 70), "violet": (130, 60, 190),
    "lilac": (160, 100, 190), "lavender": (155, 115, 210), "mauve": (160, 95, 165), "plum": (120, 50, 110),
    "amethyst": (145, 90, 190), "magenta": (220, 50, 160), "fuchsia": (225, 50, 155), "rose": (240, 110, 150),
    "rosy": (245, 150, 170), "salmon": (250, 150, 130), "blush": (240, 170, 175), "pinkish": (240, 160, 180),
    "ivory": (250, 248, 235), "snowy": (248, 250, 252), "cream": (250, 243, 215), "creamy": (250, 243, 215),
    "chalky": (240, 240, 238), "chalk": (245, 245, 240), "pearl": (240, 238, 232), "alabaster": (242, 240, 232),
    "milky": (248, 246, 240), "whitish": (235, 235, 230), "pale": (230, 225, 215), "ebony": (30, 25, 25),
    "charcoal": (45, 47, 50), "onyx": (20, 20, 22), "inky": (20, 20, 35), "sooty": (35, 35, 35),
    "coal": (25, 25, 25), "blackened": (30, 28, 28), "raven": (25, 25, 30), "silver": (175, 178, 182),
    "silvery": (180, 183, 187),
    "ash": (150, 150, 148), "ashen": (155, 155, 152), "slate": (105, 115, 125), "steel": (130, 138, 146),
    "iron": (90, 92, 95),
    "leaden": (110, 112, 115), "pewter": (140, 142, 142), "stone": (145, 142, 135), "concrete": (140, 138, 134),
    "chrome": (180, 185, 190), "metallic": (150, 153, 157), "granite": (120, 118, 118), "chestnut": (125, 70, 45),
    "chocolate": (95, 55, 30), "wooden": (135, 90, 50), "wood": (135, 90, 50), "timber": (140, 95, 55),
    "coffee": (95, 65, 45),
    "caramel": (175, 110, 55), "mahogany": (110, 50, 35), "walnut": (100, 70, 45), "hazel": (140, 100, 55),
    "tan": (190, 150, 105),
    "bronzed": (160, 110, 65), "umber": (100, 75, 50), "sepia": (110, 80, 50), "brownish": (125, 85, 55),
    "beige": (225, 210, 180),
    "tawny": (185, 120, 55), "russet": (140, 70, 35), "oaken": (150, 105, 60), "cyan": (40, 200, 215),
    "teal": (10, 130, 135),
    "aqua": (60, 205, 205), "aquamarine": (100, 215, 190), "sky": (125, 195, 240), "reddish": (190, 70, 60),
    "ginger": (205, 115, 50),
    "bloody": (170, 15, 25), "sandy": (225, 195, 140), "purplish": (140, 80, 160),
}  # fmt: skip
"""Other colour words and materials that stand for a colour, sRGB bytes."""

ALSO_THINGS = """
cherry brick rust coal pumpkin lemon amber mustard straw tangerine apricot peach coral plum rose salmon cream chalk
pearl
raven ash slate steel iron stone concrete chestnut chocolate coffee caramel walnut ginger sky mint lime olive moss
copper
chocolate denim ruby emerald sapphire jade indigo violet orchid
""".split()
"""Colour words that also name a thing: they move less far, so that a rose stays a flower."""

NOT_COLORS = {"snow", "linen", "wheat", "peru", "thistle", "tomato", "seashell", "gainsboro"}
"""CSS colours whose word rarely means the colour."""

THINGS = [
    group.split()
    for group in """
sofa couch settee loveseat divan futon davenport
car automobile sedan vehicle motorcar coupe hatchback auto roadster limousine
house home cottage hut cabin bungalow chalet villa dwelling lodge
robot android droid automaton cyborg mech
mushroom toadstool fungus shroom
mug cup beaker tankard teacup stein
airplane plane aeroplane aircraft airliner jet jetliner biplane propeller
tree fir oak pine conifer spruce sapling maple elm cedar evergreen
chair armchair seat rocker throne
stool footstool ottoman barstool
snowman snowperson frosty
duck duckling mallard goose waterfowl drake gosling
lamp lantern light lampshade nightlight
table desk workbench sideboard counter
chest trunk strongbox coffer crate
box carton package parcel casket case
boat ship vessel yacht sailboat dinghy sloop ferry canoe rowboat galleon schooner
sword blade cutlass saber rapier katana broadsword
knife dagger dirk cleaver
hat cap bonnet fedora beret topper sunhat
barrel cask keg drum vat
cat kitten feline kitty tomcat pussycat
dog puppy hound canine pup pooch doggy
rocket spaceship missile spacecraft starship shuttle
bird songbird sparrow robin chick finch
penguin puffin auk
fish goldfish trout carp minnow
rabbit bunny hare
bear teddy cub grizzly
pig piglet hog swine boar
cow bull ox calf cattle
horse pony stallion mare foal
elephant mammoth pachyderm
turtle tortoise terrapin
frog toad
snake serpent viper
owl owlet
bed cot bunk mattress bedstead
cupboard cabinet wardrobe closet dresser bureau locker
bookcase bookshelf shelf
bench pew settle
clock timepiece alarm
watch wristwatch stopwatch
teapot kettle teakettle
pot saucepan cauldron pan cookpot
bowl basin dish
vase urn amphora
jug pitcher ewer flagon carafe
bottle flask vial decanter
glass goblet tumbler wineglass chalice
bucket pail
basket hamper
lighthouse beacon
tower turret spire minaret
castle fortress fort palace citadel stronghold keep
church chapel cathedral
barn shed stable
tent tepee marquee
windmill mill
bridge viaduct overpass
truck lorry pickup
bus coach minibus omnibus
train locomotive
tractor digger bulldozer
bicycle bike cycle
motorcycle motorbike moped scooter
helicopter chopper
submarine sub bathyscaphe
tank panzer
wagon cart carriage buggy
apple fruit
pear
banana plantain
strawberry berry raspberry
cake gateau cupcake muffin tart
doughnut donut bagel
icecream gelato sundae sorbet
carrot parsnip
pumpkin gourd squash
flower blossom bloom tulip daisy
cactus succulent
bush shrub hedge
leaf foliage frond
rock boulder stone
gem jewel gemstone diamond crystal
ring band
crown tiara coronet diadem
key latchkey
bell chime
book tome volume novel
camera camcorder
phone telephone cellphone smartphone handset
television tv telly
computer laptop
guitar ukulele banjo
umbrella parasol brolly
shoe sneaker trainer loafer
boot wellington
hammer mallet
axe hatchet tomahawk
shield buckler
candle taper
ball sphere orb globe
cube block dice
cone
cylinder tube
pyramid
doll dolly figurine
statue sculpture
anchor
ladder stepladder
door gate hatch doorway portal
roof rooftop
handle grip knob
leg limb
arm
wheel tyre tire wheels
wing wings
lid cover top
hood
base stand pedestal plinth foot
pillow cushion
window pane
chimney flue
sail
beak bill
nose snout
scarf muffler shawl
belt strap hoop
stripe band
""".strip().splitlines()
]
"""Names of things that mean nearly the same here; the first of a group is the one that the others move to."""

SCENE_WORDS = """
a an the of with and in on its that has is made from by to for model toy small large little tiny big huge tall short
wide narrow
round square plain simple cartoon style render rendered low poly asset photo picture drawing emoji icon object figure
handle handles trim rim edge body head legs leg wheel wheels roof door doors window windows lid base stripe stripes
cushion cushions
sail sails mast hull wing wings tail beak eyes eye hat scarf buttons button nose arms arm feet foot shade pole stem
cap spots dots
trunk leaves bands band lock drawer drawers screen antenna petals pot blade guard hilt strap sole laces
wooden metal plastic stone leather rubber ceramic porcelain velvet cotton clay paper cardboard glass striped spotted
dotted
""".split()
"""Words that descriptions of things are made of."""
