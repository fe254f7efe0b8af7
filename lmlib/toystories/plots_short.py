"""Short plots: one small thing happens, and it ends well."""

from lmlib.toystories.grammar import Plot, table, words
from lmlib.toystories.words import BRIGHT, CHILDREN, COLORS, FAMILY, GRANDPARENTS, PARENTS, SNACKS

BALLOON = Plot(
    "balloon",
    {
        "hero": CHILDREN,
        "mom": FAMILY,
        "color": BRIGHT,
        "shape": words(
            """
            balloon, balloon, star balloon, heart balloon, fish balloon, rocket balloon
            """
        ),
        "where": words("the fair, the zoo, a party, the parade, the toy shop, the harbor"),
        "finder": words(
            """
            an old sailor, a girl in another town, a lonely king, a cow in a field, a bird with no
            friends, a boy in a hospital bed
            """
        ),
    },
    """
    <intro> <oneday> {mom} [bought {him}|gave {him}] a {color} {shape} at {where}. <glad> [It danced
    above {his} head.|It pulled at the string like a puppy.|"I will call it Bob," {he} said.|] "Hold
    it tight," [said {mom}|{mom} said].

    But {hero} [sneezed|waved to a friend|wanted to clap], and {he} let go. The {shape} [flew
    up|went up and up], over the [trees|houses|roofs]. ["Come back!" {he} cried.|"Stop!" {he}
    cried.|"No, no, no!" {he} cried.] It did not come back. [It became a small dot.|Soon it was as
    small as a berry.] <sad>

    ["Where will it go now?" <asked hero>.|"Will it be lonely?" <asked hero>.] {mom} [sat down with
    {him}|thought for a moment]. ["Maybe it is on its way to {finder}," {mom.he} said.|"I think it
    wants to visit {finder}," {mom.he} said.] "[Someone who needs it more than we do|Someone who
    could use a {color} surprise today]."

    {hero} looked up at the sky. [{He} wiped {his} eyes|{He} began to smile]. ["Have a good trip!"
    {he} called.|"Goodbye! Say hello from me!" {he} called.] [All the way home, {he} thought about
    the places it would see.|That night, {he} drew a picture of the {shape} and {finder}.|And the
    next time, {hero} tied the string to {his} wrist.]
    """,
)

HIDE_AND_SEEK = Plot(
    "hide and seek",
    {
        "hero": CHILDREN,
        "friend": CHILDREN,
        "spot": table(
            "name clue",
            """
            in the big laundry basket | a sock moved all by itself
            behind the long curtain | two shoes stuck out below it
            up in the apple tree | an apple fell on {hero}'s head
            under the wheelbarrow | something giggled in the garden
            in the dog house | the dog came by, and he looked as if someone had taken his bed
            behind the coats | one of the coats sneezed
            inside the empty barrel | the barrel said achoo
            under the kitchen table | the table cloth had a bump
            """,
        ),
        "wrong": words(
            """
            behind the door, under the bed, in the shed, behind the sofa, in the bathtub, under the
            stairs
            """
        ),
    },
    """
    <intro> <oneday> {he} played hide and seek with {friend}. {hero} [closed {his} eyes|put {his}
    hands over {his} eyes] and counted. "[One, two, three, four, five|Eight, nine, ten]! [Here I
    come|Ready or not, I am coming]!" {he} called.

    {hero} looked {wrong}. [No {friend}.|Nobody was there.|There was only a spider.] {He} looked
    [left and right|high and low|here and there]. [It was very quiet.|"Where can {friend.he} be?"
    {he} wondered.] [{hero} began to worry.|"I give up!" {he} called. But no one
    answered.|"{friend}?" {he} called. No answer.] <scared>

    Then {spot.clue}. [{hero} stopped and smiled.|"Aha!" thought {hero}.|{hero} laughed to
    {himself}.] {He} went closer on {his} toes. {friend} was {spot}!

    ["I found you!" <cried hero>.|"Got you!" <cried hero>.] ["That was a good hiding place," {he}
    said.|"I looked everywhere," {he} said. "I thought you were lost."] ["I almost fell asleep in
    there," said {friend}.|"I tried so hard not to laugh," said {friend}.|{friend} came out with
    dust in {friend.his} hair.] "Now it is my turn to count," <said friend>. "[Hide well|You will
    see, I am good at finding]!"

    They played until [it was dark|dinner was ready|they were called home]. [<night>|<learned> it is
    fun to hide, but it is even better to be found.|"Same game tomorrow?" asked {friend}. "Yes!"
    said {hero}.]
    """,
)

ICE_CREAM = Plot(
    "dropped ice cream",
    {
        "hero": CHILDREN,
        "friend": CHILDREN,
        "mom": FAMILY,
        "flavor": words(
            """
            chocolate, strawberry, vanilla, mint, lemon, cherry, banana, mango, caramel
            """
        ),
        "thief": words("A pigeon, A small dog, A line of ants, A gray cat, A crow, A fat squirrel"),
    },
    """
    <intro> It was [a hot day|the first warm day of the year|so hot that the street was soft]. {mom}
    bought {him} [a big|a] {flavor} ice cream. ["Thank you!" said {hero}.|<glad>] {He} took one
    [lick|small lick]. [It was cold and sweet.|Mmm, it was so good.|It was the best one ever.]

    Then {he} [tripped over a stone|turned around too fast|jumped over a puddle]. Plop! The ice
    cream fell [on the ground|in the sand|on the path]. {thief} came and [ate it|began to eat it]
    right away. <sad> "My ice cream!" <cried hero>.

    {friend}, a {friend.kind} from {his} class, saw it all. {friend.He} had [an ice cream too|a
    {flavor} ice cream too]. {friend.He} looked at it, and {friend.he} looked at {hero}. ["Here, we
    can share mine," said {friend}.|"Do not be sad. You can have half of mine," said {friend}.|"Take
    a bite of mine," said {friend}. "Take two!"]

    ["Really?" <asked hero>. "You are so kind!"|<thanks hero>|{hero} could hardly believe it.] They
    sat on [a bench|the steps|a wall] and took turns. One lick for {hero}, one lick for {friend}.
    [It dripped on their hands, and they laughed.|It was gone much too soon.|Their noses got
    sticky.] ["It tastes better with two," said {hero}.|"Half is more than I thought," said
    {friend}.] [The next week, {hero} bought one for {friend}.|<friends>|<learned> a small kindness
    can save the day.]
    """,
)

PICNIC = Plot(
    "picnic",
    {
        "hero": CHILDREN,
        "friend": CHILDREN,
        "mom": PARENTS + GRANDPARENTS,
        "food": SNACKS,
        "color": COLORS,
        "guest": table(
            "name they took wish",
            """
            a line of ants | they | carried off the crumbs, one by one | They work so hard
            a brown duck | it | took a piece from the plate | It must be hungry
            two small birds | they | hopped closer and closer | They want to eat with us
            a shy squirrel | it | came down from the tree | It has no one to eat with
            a goat | it | put its head in the basket | It thinks it is invited
            a family of geese | they | walked right over the blanket | They have come a long way
            a spotted cow | it | looked over the fence and mooed | It wants a taste too
            """,
        ),
    },
    """
    <intro> <oneday> {he} went on a picnic with {mom} and {his} friend {friend}. <sunny> They spread
    a {color} blanket [under a tree|in the meadow|near the stream]. They had brought {food} and
    [lemonade|apple juice|cold water].

    Just as they began to eat, they had visitors. It was {guest}! {Guest.they} {guest.took}.
    ["Look!" <cried friend>.|"We have company," [said {mom}|{mom} said].] ["Go away, this is our
    food!" <cried hero>.|"Hey, stop that!" <cried hero>.]

    ["{guest.wish}," <said friend>.|"Look again," [said {mom}|{mom} said]. "{guest.wish}."] {hero}
    looked, and {he} [had to laugh|was not angry any more]. "[There is enough for all of us|We can
    share a little]," {he} said. {He} put some food [on the grass|to one side], a few steps away.
    [Soon everybody was eating.|It was all gone in a minute.|Then it was quiet, and all you could
    hear was chewing.]

    After that, they [looked at the clouds|lay in the grass|rolled down the hill]. ["That one looks
    like a whale," said {friend}. "And that one looks like a teapot," said {hero}.|"I wish every day
    was like this," <said hero>.|{mom} told them a story until their eyes closed.] [When they packed
    the basket, it was empty, and they were full and happy.|<night>|<learned> a meal is nicer with
    guests, even with small ones.]
    """,
)

FARM = Plot(
    "visit to a farm",
    {
        "hero": CHILDREN,
        "mom": GRANDPARENTS,
        "animal": table(
            "name young sound need where",
            """
            sheep | lamb     | baa   | a bottle of warm milk | in the clover
            goat  | kid      | maa   | a handful of hay      | on top of the wood pile
            cow   | calf     | moo   | a bucket of milk      | behind the barn
            hen   | chick    | cheep | a few grains of corn  | under the cart
            duck  | duckling | peep  | some soft bread       | in the reeds by the pond
            pig   | piglet   | oink  | a bowl of mash        | in the mud by the gate
            horse | foal     | neigh | a red apple           | at the far end of the field
            """,
        ),
    },
    """
    <intro> [In the summer|One week in spring], {he} went to stay on {his} {mom.kin}'s farm. [Every
    morning the rooster woke {him} up.|There were hens, cows, and a lazy old dog.|{He} had rubber
    boots and a straw hat.] {hero} helped to [feed the hens|gather the eggs|carry the water|sweep
    the barn].

    <oneday> {he} heard a {animal} call. {Animal.sound}, {animal.sound}! [It sounded sad.|It ran up
    and down by the fence.|It did not want to eat.] ["What is the matter with the {animal}?" <asked
    hero>.|"Why is it so sad?" <asked hero>.] ["Her little {animal.young} is gone," [said
    {mom}|{mom} said]. |"She cannot find her {animal.young}," [said {mom}|{mom} said].] "I will look
    for it!" <said hero>.

    {He} looked [in the barn|in the hay|behind the tractor], but it was not there. {He} [called and
    called|looked under every bush|asked the old dog, but the dog only yawned]. Then {he} heard a
    tiny sound. There was the {animal.young}, {animal.where}! [It was lost and cold.|It was stuck
    and could not get out.|It shook on its thin legs.]

    ["Do not be afraid," <said hero>.|"There you are, little one," <said hero>.] {He} [took it in
    {his} arms|led it back step by step|wrapped it in {his} coat]. {Animal.sound}! [The mother came
    running.|How happy the mother was!] {hero} gave the {animal.young} {animal.need}. ["You are a
    real farmer now," [said {mom}|{mom} said].|"Well done," [said {mom}|{mom} said].] <proud>

    [Every day after that, the {animal.young} followed {hero} around the farm.|<night>|When it was
    time to go home, the {animal.young} came to the gate to say goodbye.]
    """,
)

FISHING = Plot(
    "fishing trip",
    {
        "hero": CHILDREN,
        "mom": GRANDPARENTS + PARENTS,
        "junk": words(
            """
            an old boot, a rusty can, a broken umbrella, a wet hat, a bunch of weeds, a bent spoon,
            a lost glove
            """
        ),
        "fish": words("silver, spotted, golden, striped, shiny, green"),
        "snack": SNACKS,
    },
    """
    <intro> <oneday> {mom} took {him} fishing. They sat [on the dock|in a small boat|on the bank of
    the river] [with their rods|side by side]. "[Now we wait|Now we have to be very still]," [said
    {mom}|{mom} said].

    {hero} waited. [A frog jumped.|A dragonfly sat on {his} knee.|The water was like a mirror.] {He}
    waited some more. ["Are there any fish in there?" <asked hero>.|"This takes so long," <said
    hero>.|"Maybe the fish are asleep," <said hero>.] ["Fishing is mostly waiting," [said
    {mom}|{mom} said].|"Good things do not hurry," [said {mom}|{mom} said].] They ate {snack}.

    Then something pulled! ["I have one! I have one!" <cried hero>.|"It is a big one!" <cried
    hero>.] {He} pulled and pulled, and out of the water came {junk}. [{mom} laughed until {mom.he}
    had tears in {mom.his} eyes.|They looked at it and laughed.|"That is a funny fish," [said
    {mom}|{mom} said].] {hero} wanted to [give up|go home], but {he} tried [again|one more time].

    [The sun went down, and the water was pink.|It got late.|A cool wind came up.] And then, splash!
    There was a {fish} fish on the line. [It was small, but it was beautiful.|It jumped and
    twisted.] {hero} looked at it for a moment. ["It wants to go home too," {he} said.|"It is too
    pretty to eat," {he} said.] And {he} put it back into the water.

    ["That was a good thing to do," [said {mom}|{mom} said].|{mom} put an arm around {him}.] [They
    went home with no fish and {junk}, and they were happy.|"What did you catch?" everyone asked.
    "{Junk} and a good day," said {hero}.|<learned> you do not have to keep a thing to enjoy it.]
    """,
)

SHORT_PLOTS = (BALLOON, HIDE_AND_SEEK, ICE_CREAM, PICNIC, FARM, FISHING)
