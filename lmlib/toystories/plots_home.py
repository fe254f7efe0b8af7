"""Plots that play at home: toys, rooms, meals, bedtime."""

from lmlib.toystories.grammar import Plot, table, words
from lmlib.toystories.words import (
    CHILDREN,
    COLORS,
    FAMILY,
    GRANDPARENTS,
    PARENTS,
    SNACKS,
    SOFT_TOYS,
)

LOST_TOY = Plot(
    "lost toy",
    {
        "hero": CHILDREN,
        "mom": PARENTS,
        "toy": SOFT_TOYS,
        "color": COLORS,
        "spot": table(
            "name how",
            """
            under the bed               | It must have rolled there in the night
            behind the sofa             | It must have slipped down while we read a story
            in the laundry basket       | It must have gone in with the sheets
            under a pile of clothes     | Your sweater must have been on top of it
            on the edge of the bathtub  | You must have left it there after your bath
            in the dog's basket         | The dog must have wanted a friend
            on the back seat of the car | You must have left it there after our trip
            behind the curtain          | You must have left it there when we played hide and seek
            inside a big cooking pot    | Your baby brother must have put it there
            """,
        ),
        "first": words(
            """
            under the table, in the closet, in the kitchen, on the stairs, in the hall
            """
        ),
    },
    """
    <intro> {He} had a {color} {toy} that {he} loved [very much|more than anything|so much]. [{He}
    took it everywhere.|{He} slept with it every night.|They did everything together. |{He} told it
    all {his} secrets. |It had [one torn ear|a soft tummy|a funny smile|two shiny buttons].|]

    [<oneday> {hero} [woke up|came home] and could not find the {toy}. |<oneday> {hero} wanted to
    play, but the {toy} was gone. |One night it was time for bed, but the {toy} was not on the
    pillow.] [<sad>|<scared>] {He} looked {first}, but it was not there. [{He} looked in {his}
    [bag|room|drawer] too, but it was [empty|not there]. |{He} called its name, but toys cannot
    answer.|{He} looked high and low.|]

    "{mom}, I cannot find my {toy}!" <cried hero>.

    [{mom} gave {him} a hug.|{mom} took {his} hand.|{mom} knelt down beside {him}.|] ["Do not
    worry|"Do not cry|"It is all right], we will look for it together," [said {mom}|{mom} said].
    ["When did you [see it last|have it last|play with it last]?"

    {hero} thought hard. "I had it [yesterday|this morning|after lunch]," {he} said. |"Things do not
    just fly away."|"Two pairs of eyes are better than one."|]

    They looked [everywhere|all over the house|in every room|up and down]. [{mom} looked on top of
    the [shelf|closet|fridge].|They moved the chairs.|They lifted the pillows one by one.|] At last
    {hero} saw [something {color}|a {color} leg|a bit of {color}] {spot}. [It was the {toy}!|"There
    you are!" {he} [cried|shouted].|"I found it!" {he} [cried|shouted].]

    [{He} hugged {his} {toy} [tight|and would not let go|again and again].|{He} gave the {toy} a big
    kiss.|{He} held the {toy} close.] <glad> ["{spot.how}," [said {mom}|{mom} said][ with a
    smile| and laughed|].|]

    [From then on, {hero} always put the {toy} [on {his} bed|on the shelf|back in its place] after
    playing.|<learned> it is good to [ask for help|keep looking and not give up|put things back].
    |That night, {hero} and the {toy} slept [very well|side by side]. |"Next time I will take better
    care of you," {he} [said|whispered] to the {toy}.]
    """,
)

DARK = Plot(
    "afraid of the dark",
    {
        "hero": CHILDREN,
        "mom": PARENTS,
        "toy": SOFT_TOYS,
        "shape": table(
            "name real look",
            """
            a monster    | a coat on a hook               | long arms
            a bear       | a pile of clothes on the chair | a big round back
            a giant bird | an open umbrella               | two black wings
            a snake      | a belt on the floor            | a long thin tail
            a dragon     | the curtain moving in the wind | a tail that moved
            a ghost      | a white towel on the door      | no feet
            a witch      | a hat on top of a lamp         | a pointed hat
            a wolf       | an old gray blanket            | two ears
            """,
        ),
        "light": words(
            """
            a little lamp, a night light, a small flashlight, a star lamp, a tiny lantern
            """
        ),
    },
    """
    <intro> [In the day {he} was brave, but at night {he} was afraid of the dark. |{He} was not
    afraid of [dogs|spiders|bees|big dogs], but {he} was afraid of the dark. |{He} did not like [the
    night|bedtime], because {his} room was so dark.]

    One night, {hero} was in bed with {his} {toy}. [It was very dark and very quiet.|The moon was
    behind a cloud.|The wind blew outside.|The house was still.] Then {he} saw {shape} in the
    corner! It had {shape.look}. <scared> [{He} pulled the blanket over {his} head.|{He} hugged the
    {toy} [tight|close].|{He} closed {his} eyes.|]

    "{mom}! {mom}!" <cried hero>. "There is {shape} in my room!"

    {mom} came [quickly|at once|running|up the stairs] and [sat on the bed|held {his} hand]. ["Let
    us look at it together," [said {mom}|{mom} said].|"Are you sure? Let us turn on the light,"
    [said {mom}|{mom} said].|"Shall we see what it is?" <asked mom>.] [Click! The light went on.|
    {mom} turned on the light.] {hero} [peeked|looked] out [slowly|with one eye|from under the
    blanket]. It was not {shape} at all. It was only {shape.real}!

    [{hero} began to laugh. "How silly!" {he} said.|{hero} laughed, and {mom} laughed too.|"Oh!"
    said {hero}. "It looked so real in the dark."] ["Things look different at night," [said
    {mom}|{mom} said].|"The dark cannot hurt you," [said {mom}|{mom} said]. "Everything is the same
    as in the day."|"When I was little, I was afraid of the dark too," [said {mom}|{mom} said].]
    [{mom} gave {hero} a kiss|Then {mom} gave {hero} {light}|{mom} put {light} next to the bed].
    ["Now you can [look|check] by yourself," {mom} said.|]

    [The next night, {hero} was not [so|as] afraid. {He} looked [at the dark|into the corner] and
    said, "I know you!"|{hero} told the {toy}, "Do not be afraid. I am here with you."|Soon {hero}
    was fast asleep, with {his} {toy} in {his} arms.] [<learned> [the dark is not so bad|it helps to
    take a closer look|being brave means looking even when you are afraid].|<proud>|]
    """,
)

THUNDER = Plot(
    "thunder",
    {
        "hero": CHILDREN,
        "pet": tuple(
            {"name": name, "kind": kind, "he": he, "his": his, "him": him}
            for name, kind, he, his, him in (
                ("Buddy", "dog", "he", "his", "him"),
                ("Spot", "puppy", "he", "his", "him"),
                ("Luna", "cat", "she", "her", "her"),
                ("Fluffy", "kitten", "she", "her", "her"),
                ("Ginger", "cat", "she", "her", "her"),
                ("Rex", "dog", "he", "his", "him"),
                ("Biscuit", "puppy", "he", "his", "him"),
                ("Snowball", "bunny", "she", "her", "her"),
            )
        ),
        "mom": FAMILY,
        "game": table(
            "name result",
            """
            count after each flash   | One, two, three, four, five
            sing a silly song        | La, la, la
            clap back at the thunder | Clap, clap, clap
            beat a pot like a drum   | Bang, bang, bang
            make a noise like a lion | Roar, roar, roar
            """,
        ),
    },
    """
    <intro> {He} had a {pet.kind} named {pet}. [They were always together.|{hero} and {pet} loved
    each other.|{pet} slept at the foot of {his} bed.|Every day they played in the yard.|]

    One [night|evening|afternoon], [big|dark|black|gray] clouds filled the sky. [The wind began to
    blow. |The rain began to fall.|Rain hit the windows.|The trees bent in the wind.] Then there was
    a [bright|big] flash, and the thunder went boom! [{pet} ran and hid under the
    [bed|table|sofa].|{pet} jumped up and hid behind the [chair|door|sofa].] <scared>

    ["{mom}, I do not like the storm," said {hero}.|"{mom}, make it stop!" <cried hero>.|"What was
    that?" <asked hero>.] Boom! The thunder came again[|, even louder].

    {mom} [sat down next to {him}|put a warm blanket around {him}|held {him} close]. ["It is only
    [thunder|a storm]," [said {mom}|{mom} said]. "It is loud, but we are safe inside.|"Thunder is
    just the sound of the lightning," [said {mom}|{mom} said]. "It cannot hurt us in here.|"The
    clouds are just making noise," [said {mom}|{mom} said]. "We are safe and dry.] Let us {game}."

    So they did. ["{game.result}!" they [said|cried|shouted]|"{game.result}!" said {hero}, and {mom}
    did it too]. [It was fun.|It made {him} laugh.|Soon {hero} was not so afraid.|Each time, the
    thunder was a little farther away.] Then {hero} heard a small sound. It was {pet}. ["Poor {pet},
    you are scared too," said {hero}.|"{pet} is shaking," said {hero}. "{pet.He} needs a friend."]
    {He} [crawled|went| lay] down [on the floor|on {his} tummy] and [held out {his} hand|spoke
    softly]. "Do not be afraid. I am here," {he} said. {pet} came out [slowly|step by step] and [sat
    in {his} lap|licked {his} hand|put {pet.his} head on {his} knee].

    [At last the storm was over.|After a while, the rain stopped.|Then the storm went away.] [The
    air smelled fresh and clean|Everything was quiet again|Drops of water shone on the leaves]. ["We
    were brave," {he} told {pet}.|"You took good care of {pet}," [said {mom}|{mom} said].
    <proud>|{mom} smiled. "You were very brave," {mom.he} said.] [<learned> it is easier to be brave
    when you help a friend.|After that, {hero} and {pet} were never so afraid of [thunder|storms]
    again.|]
    """,
)

BAKING = Plot(
    "baking",
    {
        "hero": CHILDREN,
        "mom": GRANDPARENTS,
        "cake": table(
            "name it do slip",
            """
            a chocolate cake | the cake | It came out tall and brown | put in salt instead of sugar
            an apple pie | the pie | It came out golden | dropped an apple on the floor
            cookies | the dough | They came out round and crisp | dropped an egg on the floor
            banana bread | the batter | It came out warm and soft | spilled the milk
            blueberry muffins | the batter | They came out fat and blue | spilled the flour
            a carrot cake | the cake | It came out sweet and soft | dropped an egg on the floor
            a lemon cake | the batter | It came out yellow and light | put in salt instead of sugar
            ginger cookies | the dough | They came out brown and sweet | spilled the sugar
            a strawberry pie | the pie | It came out red and sweet | spilled the flour
            """,
        ),
        "guest": words("the neighbors, the whole family, a sick friend, the new family next door"),
    },
    """
    <intro> {He} [loved to visit {his} {mom.kin}|loved to help in the kitchen|was staying with {his}
    {mom.kin}|went to see {his} {mom.kin} every [week|Sunday]]. [The house always smelled
    [sweet|good|of bread].|{mom} had a warm [kitchen|smile] and a big [oven|apron].|]

    <oneday> {mom} [said|asked], ["Shall we bake {cake} today?"|"Do you want to help me bake
    {cake}?"]

    ["Yes, please!"|"Oh yes!"|"Can I stir?"|"I would love to!"] <cried hero>. {He} washed {his}
    hands and put on [an apron|a little apron|an apron that was much too big]. [{mom} got the flour,
    the sugar, and the eggs.|First they [mixed|put] flour and sugar in a big bowl.|{mom} read from
    an old [book|card], and {hero} found [the bowl|the spoon|all the things they needed].] [{hero}
    stirred and stirred.|{hero} [cracked an egg|poured the milk] all by {himself}.|There was flour
    on {his} nose.|]

    [But then {hero} {cake.slip}.|Then something went wrong. {hero} {cake.slip}.|{hero} was in a
    hurry, and {he} {cake.slip}.|Oh no! {hero} {cake.slip}.] ["Oh no! I spoiled it," {he}
    said.|<sad> <sorry>|"I am no good at this," {he} said.]

    [{mom} did not get mad.|{mom} only laughed.|{mom} gave {him} a kind smile.] ["Everyone makes
    mistakes," {mom.he} said. "We can [try again|fix it|clean it up and go on]."|"When I was small,
    I did the very same thing," {mom.he} said. "Let us try again."|"That is how we learn," {mom.he}
    said. "Let us [start over|try once more]."] So they [tried again|cleaned up and tried
    again|did], and this time {hero} [was very careful|took {his} time|went slowly].

    Soon everything was in the oven. [They waited and waited.|They washed the bowls while they
    waited. |{hero} sat on the floor and watched through the [glass|little window].|{hero} licked
    the spoon.] Ding! {cake.do}. [The kitchen smelled so good.|"It smells wonderful!" {hero}
    said.|<glad>]

    [They shared {cake.the} with {guest}, and everyone wanted more.|They sat at the table and ate
    {cake.the} with [a glass of milk|hot tea].|"We should share this," said {hero}. So they took
    some to {guest}.] ["This is the best I ever had," [said {mom}|{mom} said].|"You are a good
    baker," [said {mom}|{mom} said].|"I made it with {mom}," {hero} said with pride.] [<learned> [it
    is all right to make mistakes|good things take time|you can always try again].|<proud>|It tasted
    even better because they made it together.]
    """,
)

VASE = Plot(
    "telling the truth",
    {
        "hero": CHILDREN,
        "mom": PARENTS + GRANDPARENTS,
        "act": table(
            "name thing after rule",
            """
            threw a ball | vase | broke into many pieces | play ball in the house
            danced around the room | lamp | fell and broke | dance near the lamp
            ran down the hall | blue plate | fell and broke | run in the house
            jumped on the sofa | picture frame | fell and cracked | jump on the sofa
            kicked a ball | window | broke with a crash | kick balls near the house
            played with a stick | flower pot | tipped over and cracked | play with sticks inside
            raced a toy truck | glass bowl | fell to the floor and broke | race trucks in the hall
            swung a toy sword | tea cup | fell and broke | swing things near the table
            """,
        ),
        "blame": words("the cat, the dog, the wind, my little brother, my baby sister"),
    },
    """
    <intro> [{He} was full of energy.|{He} loved to play and could not sit still.|{He} liked to run
    and jump.|] {mom} [always|often] said, "Please do not {act.rule}."

    But one [day|morning|afternoon], {mom} was [in the garden|on the phone|in the kitchen|upstairs],
    and {hero} forgot. {He} {act}. [Crash!|Bang!|Smash!|Then came a loud noise.] The {act.thing}
    {act.after}. [It was {mom}'s [favorite|best].|{hero} stood very still.|Then it was very quiet.|]

    <scared> ["What will {mom} say?" {he} thought.|"Now {mom} will be mad," {he} thought.] [{He} hid
    the pieces [under the rug|behind the sofa|in a box].|{He} wanted to run away and hide.|{He}
    wanted to hide [in {his} room|under {his} bed].|]

    {mom} came in. "What was that noise? [Who broke the {act.thing}?|What happened to the
    {act.thing}?]" {mom.he} asked.

    [{hero} [opened {his} mouth. {He} wanted to say|almost said] that it was {blame}. But [that
    would be a lie|that was not true]. {His} tummy [hurt|felt bad].|"It was {blame}," said {hero}.
    But {his} face was red, and {he} [felt bad inside|could not look up]. {mom} waited and [looked
    at {him}|said nothing]. |{hero} looked at the floor. It was hard to speak.] [At last|Then] {he}
    [took a deep breath|looked up] and said, ["I did it. I {act}, and the {act.thing} broke. I am
    [very |so ]sorry."|"It was me, {mom}. I {act}. I am sorry."]

    [{mom} was quiet for a moment.|{mom} sat down beside {him}.|{mom} was a little sad.] ["Thank you
    for telling me the truth," {mom.he} said. "That was [brave|not easy]."|"I am sad about the
    {act.thing}," {mom.he} said. "But I am glad you told me the truth."|"A {act.thing} can break,"
    {mom.he} said. "But the truth is worth more than a {act.thing}."] Then {mom} gave {him} a [big
    |]hug.

    [Together they [swept up|picked up] the pieces.|{hero} got the broom and helped to clean
    up.|{hero} gave {mom} [all the coins|some coins] from {his} [piggy bank|jar] to buy a new
    one.|They [tried to fix it with glue|cleaned up together].] [{hero} felt [much better|light
    again].|The bad feeling was gone.] [<learned> it is best to tell the truth[|, even when it is
    hard].|After that, {hero} did not {act.rule} [again|any more].|From then on, {hero} always told
    the truth.]
    """,
)

RAINY_DAY = Plot(
    "rainy day",
    {
        "hero": CHILDREN,
        "friend": CHILDREN,
        "mom": PARENTS,
        "snack": SNACKS,
        "wish": words(
            """
            go to the park, ride bikes, play ball, go to the playground, fly a kite, climb trees
            """
        ),
        "build": table(
            "name from as enemy",
            """
            castle    | pillows and blankets   | the king and the queen | dragon
            ship      | two chairs and a sheet | brave sailors          | whale
            spaceship | a big box              | space heroes           | moon monster
            cave      | the table and a quilt  | sleepy bears           | lion
            train     | all the chairs         | the drivers            | cow on the tracks
            tent      | a sheet and a broom    | campers in the woods   | bear
            rocket    | cardboard and tape     | flyers to the moon     | alien
            submarine | a box and a blanket    | divers in the deep sea | shark
            """,
        ),
    },
    """
    <intro> <oneday> {hero} wanted to {wish} with {his} friend {friend}. But it was raining. [Drip,
    drop, drip, drop.|The rain fell and fell.|Big drops ran down the window.|The street was full of
    puddles.]

    ["This is no fun," <said hero>.|"There is nothing to do," <said hero>.|"I wish the sun would
    come out," <said hero>.|"Rain, rain, go away!" <said hero>.] {friend} [sighed|was sad too|looked
    out of the window].

    {mom} [looked in|smiled|came in with a big box|came in]. "You can have fun inside too," {mom.he}
    said. "[Use what you can find|Look around the room], and make something new."

    [{hero} looked at {friend}, and {friend} looked at {hero}.|The two friends thought and
    thought.|Then {friend} had an idea.] ["I know! Let us build a {build}!" <cried friend>.|"We can
    make a {build}!" <cried hero>.] They took {build.from}. [It was hard work.|They pushed and
    pulled.|At first it fell down, but they tried again.|They worked all morning.|] At last the
    {build} was ready. [It was big and wonderful.|It filled half the room.|It was a bit crooked, but
    they loved it.]

    They played that they were {build.as}. ["Look out, there is a {build.enemy}!" <cried friend>.|"I
    see a {build.enemy}!" <cried friend>.] [It was only the cat.|It was only {mom} with a tray.|It
    was only the dog.] [They laughed so much that they fell over.|They laughed and laughed.] [{mom}
    brought {snack}, and they ate inside the {build}.|Then they ate {snack} in the {build}.|]

    [Later,|In the evening,|After a long time,] the rain stopped and the sun came out. ["Do you want
    to {wish} now?" <asked mom>.|"Look, you can go out now," [said {mom}|{mom} said].] {hero} and
    {friend} [shook their heads|looked at each other]. ["No, thank you," said {hero}. "We are [too
    busy|having too much fun]!"|"Can we play in our {build} a little more?" <asked hero>.]
    [<learned> a rainy day can be [fun too|the best day of all].|It was the best rainy day
    ever.|{mom} laughed. Now they almost hoped for rain again tomorrow.]
    """,
)

CLEANING = Plot(
    "cleaning up",
    {
        "hero": CHILDREN,
        "mom": PARENTS,
        "lost": table(
            "name need spot",
            """
            left shoe     | go to the park               | under a heap of socks
            swim suit     | go to the pool               | behind the toy box
            library book  | go to the library            | under the bed
            costume       | go to the party              | inside a pillow case
            ticket        | go to the circus             | between two comic books
            mitten        | play in the snow             | inside a toy truck
            birthday card | visit a friend on a birthday | under a plate of old crumbs
            helmet        | ride bikes                   | beneath a mountain of blocks
            """,
        ),
        "found": words(
            """
            an old puzzle piece, a shiny coin, a lost crayon, a green button, a toy key, a marble
            """
        ),
        "mess": words("blocks, books, socks, crayons, puzzles, shirts, toy cars, paper hats"),
    },
    """
    <intro> {He} had a room full of [toys|good things], but {he} never put anything away. There were
    {mess} all over the floor. [Even the cat was afraid to walk there.|You could not see the
    rug.|There was no room to walk.|The bed looked like a mountain.] "Please clean your room," {mom}
    said [every day|again and again]. ["Later," said {hero}.|"Tomorrow," said {hero}.|"I am too
    busy," said {hero}.]

    <oneday> it was time to {lost.need}. {hero} was [excited|ready to go]. But where was {his}
    {lost}? {He} looked [here and there|left and right|up and down], but the mess was too big.
    ["Hurry, we will be late!" called {mom}.|"Are you coming?" called {mom}.] "I cannot find my
    {lost}!" <cried hero>. <sad>

    [{mom} looked at the room and shook {mom.his} head.|{mom} stood at the door.] ["When everything
    has a place, nothing gets lost," {mom.he} said.|"I think the mess ate it," {mom.he} said.|"There
    is only one way to find it," {mom.he} said.] ["Then I will clean up right now," said
    {hero}.|{hero} knew what to do. "Will you help me?" {he} asked. "Of course," said {mom}.]

    [They made a game of it.|{He} sang while {he} worked.|They set a clock and raced against
    it.|They put on some music.] First {hero} put the {mess} [away|where they belonged]. [Then {he}
    made the bed.|Then {he} put the toys on the shelf.|Then {he} filled the basket.|Then {he} swept
    the floor.] {He} even found {found} that had been gone for [weeks|a long time]. And there,
    {lost.spot}, was the {lost}!

    ["I found it!" {he} shouted.|"Hooray!" {he} shouted.|"Here it is!" {he} cried.] <glad> [They
    were just in time.|They got there [just in time|a little late], but [it was all right|they had
    fun].] ["My room looks nice," said {hero}. "I can see the floor!"|"Now I have space to dance,"
    said {hero}.|"Look how big my room is," said {hero}.] [<learned> it is easy to find things in a
    clean room.|From then on, {hero} cleaned {his} room [every week|each night before
    bed].|<learned> a little work each day is better than a lot at once.]
    """,
)

HOME_PLOTS = (LOST_TOY, DARK, THUNDER, BAKING, VASE, RAINY_DAY, CLEANING)
