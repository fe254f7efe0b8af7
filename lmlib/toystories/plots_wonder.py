"""Plots with a little magic, and things that can talk."""

from lmlib.toystories.grammar import Plot, people, table, words
from lmlib.toystories.words import CHILDREN, COLORS, FAMILY, NEIGHBORS, PARENTS, SOFT_TOYS

MAGIC_FIND = Plot(
    "magic find",
    {
        "hero": CHILDREN,
        "friend": CHILDREN,
        "where": words(
            """
            in the attic, under an old bridge, in a hollow tree, under the stairs, behind a
            waterfall, in the sand
            """
        ),
        "find": table(
            "name what does use too",
            """
            a small brass bell | bell | When it rang, all the flowers opened | rang it |
                the poor flowers did not know when to sleep
            a golden paintbrush | brush | Whatever it painted became real | painted with it |
                the house was full of painted cats
            a glass stone | stone | When you held it, you could hear the animals talk | held it |
                everybody talked at once
            a silver key | key | It opened any door, even the door to the clouds | turned it |
                the rain fell into the kitchen
            an old hat | hat | Whoever wore it could fly a little | put it on |
                {hero} could not come down
            a red cape | cape | One jump in it was as high as a house | put it on |
                {hero} got stuck on top of the church
            a wooden flute | flute | When it played, everything began to dance | played it |
                the chairs and the plates would not stop dancing
            a tiny lamp | lamp | Its light made small things grow | lit it |
                the ants were as big as dogs
            a blue feather | feather | Whatever it touched became as light as air | waved it |
                the beds floated out of the windows
            """,
        ),
        "helped": table(
            "name thanks",
            """
            an old woman whose garden was dry    | You made an old woman smile
            a little bird that had lost its nest | Tweet, tweet, thank you
            a boy who could not walk             | This is the best day of my life
            a sad old man who was all alone      | I have not laughed so much for years
            a farmer whose cow had run away      | Now my family will have milk again
            a girl who was ill in bed            | I feel better already
            """,
        ),
    },
    """
    <intro> <oneday> {he} was [playing|exploring] with {his} friend {friend}. {Where}, {hero} found
    {find}. [It was covered with dust.|It was warm in {his} hand.|It shone in the dark.|It was very,
    very old.] ["What is it?" <asked friend>.|"Look what I found!" <cried hero>.|"I wonder what it
    can do," <said friend>.]

    {hero} {find.use}. [There was a flash of light.|There was a soft sound like music.|The air began
    to sparkle.] {find.does}! ["It is magic!" <cried friend>.|"Did you see that?" <whispered
    friend>.|They looked at each other with big eyes.]

    ["Let us do it again!" <said hero>.|"Let us have some fun!" <said hero>.] They used it once, and
    twice, and [ten times|all day long]. [At first it was fun.|They laughed until their sides hurt.]
    But soon there was trouble, because {find.too}. ["Oh dear, what have we done?" <said
    friend>.|"Stop, stop!" <cried friend>.|"This is too much!" <cried friend>.] <scared>

    [Then the {find.what} grew cold, and a small voice said|They heard a tiny voice. It said],
    "[Magic is not a toy|You have used me for fun. Now use me for good]. Help someone who needs it,
    and all will be well." [{hero} looked at {friend}.|{hero} and {friend} thought hard.|{hero}
    nodded.] ["I know who needs help," <said hero>. |"Then let us find someone to help," <said
    hero>.] Down the road lived {helped}. They [ran there|went there] as fast as they could and used
    the magic one last time, [for somebody else|not for themselves].

    It worked! ["{helped.thanks}," they heard, and it made them happy.|"{helped.thanks}!" they
    heard.] And [in a blink|at the same moment], everything at home was as it should be. The
    {find.what} did not shine any more. [Its magic was gone.] ["I am not even sad," <said
    hero>.|"That was the best magic of all," <said hero>.] <glad>

    [<learned> the best thing to do with a gift is to help others.|They put it back {where}, for the
    next child to find.|<learned> kindness is a kind of magic too.|"Do you think it will wake up
    again?" asked {friend}. "Maybe when someone needs it," said {hero}.]
    """,
)

WISH = Plot(
    "wish",
    {
        "hero": CHILDREN,
        "giver": table(
            "name he how",
            """
            a tiny fairy        | she | was caught in a spider's web
            a golden fish       | he  | lay on the dry bank of the river
            a little elf        | he  | had his beard stuck in a door
            a talking frog      | he  | had fallen into a bucket
            a silver bird       | she | had her foot in a trap
            a very small dragon | he  | had a cold and could not stop sneezing
            a snow fairy        | she | sat too close to a warm fire
            """,
        ),
        "wish": table(
            "name after bad",
            """
            to have all the candy in the world | There was candy everywhere |
                {hero} ate so much that {his} tummy hurt, and {he} wanted only bread
            to be as tall as a tree | {He} grew and grew |
                {hero} could not get into the house, and {his} friends were afraid
            to never have to sleep | {He} stayed up all night |
                Everyone else was asleep, and {hero} was tired and alone
            that it would be summer all the time | The sun shone every day |
                The grass turned brown, and the flowers hung their heads
            to have everything {he} touched turn blue | {He} touched the wall, and it turned blue |
                The food was blue, the cat was blue, and {mom} was blue too
            to be invisible | Nobody could see {him} |
                {hero} called and waved, but no one said hello to {him}
            to have a hundred toys | Toys fell from the sky |
                There was no place to sit, and {hero} did not know what to play with
            to be able to fly | {He} rose up into the air | The wind blew {hero} away, far from home
            """,
        ),
        "mom": PARENTS,
    },
    """
    <intro> <oneday> {he} was walking [by the river|in the woods|down the lane] when {he} heard a
    voice. "Help me, please!" It was {giver}, who {giver.how}. [{hero} could hardly believe
    it.|{hero} rubbed {his} eyes.|{hero} had never seen such a thing.] But {he} [was kind and helped
    at once|did not run away. {He} helped at once].

    ["Thank you, {hero}," said the small voice. "For this, I will give you one wish.|"You have a
    kind heart," said the small voice. "I will give you one wish.] [Choose well|Be careful what you
    ask for|Think before you speak]."

    {hero} [did not think long|jumped up and down|laughed with joy]. {He} wished {wish}.
    [Poof!|Ping!|There was a flash of light.] {wish.after}. [It was wonderful!|"Hooray!" <cried
    hero>.|"This is the best wish ever!" <cried hero>.]

    But [soon|after a while|the next day] it was not so wonderful. {wish.bad}. <sad> ["I wish I had
    never wished it," {he} said.|"What have I done?" {he} asked.|"I do not want this any more," {he}
    said.]

    So {hero} went back. ["Please, can you take my wish away?" {he} asked.|"I made a mistake," {he}
    said. "Can you help me?"] ["I wondered when you would come," was the answer.|"Are you sure?"
    asked the small voice.] "What do you want now?" {hero} [thought|thought of home]. ["I just want
    everything to be the way it was," {he} said.|"I want my old life, with {mom} and my friends,"
    {he} said.]

    [Poof!|Ping!] And so it was. {hero} ran home and [hugged {mom}|threw {his} arms around {mom}].
    ["What is this for?" <asked mom>.|"Where have you been?" <asked mom>.] ["I am just happy," <said
    hero>.|"I am so glad to be home," <said hero>.] [The soup was hot, the cat was by the fire, and
    all was well.|<night>] [<learned> {he} already had the best things.|<learned> we should be
    careful what we wish for.|{hero} did not need another wish.]
    """,
)

NOISE = Plot(
    "strange noise",
    {
        "hero": CHILDREN,
        "friend": CHILDREN,
        "fear": words("a monster, a ghost, a giant, a robber, a dragon, a troll"),
        "noise": table(
            "name where is end",
            """
            scratch, scratch | in the attic | a mother cat with four tiny kittens |
                They brought her milk and an old blanket
            tap, tap, tap | at the window | a branch with a little nest on it |
                They watched the baby birds eat
            drip, drop | in the basement | a pipe with a small hole |
                They put a bucket under it and called for help
            hoo, hoo | in the barn | an owl with fluffy chicks |
                They tiptoed out so as not to wake them
            bump, bump | in the closet | a puppy with its head in a boot |
                They pulled the boot off, and the puppy licked their faces
            squeak, squeak | in the shed | an old gate that moved in the wind |
                They put some oil on it, and it was quiet
            snore, snore | under the porch | a fat hedgehog, fast asleep |
                They let it sleep and left it an apple
            rattle, rattle | in the kitchen | a mouse inside a tin can |
                They set it free in the garden
            clank, clank | on the roof | a lost kite with a chain of bells |
                They took it down and flew it the next day
            """,
        ),
    },
    """
    <intro> One [night|evening|rainy evening] {his} friend {friend} came to stay. [They wore their
    pajamas and told stories.|They had a pillow fight and giggled.|They lay in bed and talked.] Then
    they heard a noise {noise.where}. {Noise}!

    ["What was that?" <whispered friend>.|"Did you hear that?" <whispered friend>.|{friend} sat up.]
    ["I think it is {fear}," <whispered hero>.|"Maybe it is {fear}," <whispered hero>.] <scared>
    {Noise}! There it was again. [{friend} pulled the blanket up to {friend.his} nose.|They held
    hands.|They sat as still as stones.]

    ["We have to go and look," <said hero>. "But together."|"I will go if you go," <said
    friend>.|"If we do not look, we will never sleep," <said hero>.] {hero} took [a flashlight|a
    small lamp], and {friend} took [a pillow|a wooden spoon|an umbrella]. [Step by step|On their
    toes|Very slowly], they went to see. The floor [creaked|was cold]. [Their shadows were long on
    the wall.|They did not say a word.|The clock went tick, tock.]

    ["One, two, three!" <whispered friend>.|{hero} counted to three.] {hero} shone the light. And
    there it was! But it was not {fear}. It was only {noise.is}! ["Oh!" <said hero>. "[So that is
    what it was|That is not scary at all]!"|They looked at each other and began to laugh.|"Hello
    there!" <said friend>.] {noise.end}.

    ["And you thought it was {fear}!" <said friend>. "You did too," said {hero}, and they laughed
    again.|"It is good that we looked," <said hero>.|"We are very brave," <said friend>.] [They went
    back to bed and slept like logs.|Soon they were both asleep.] [In the morning they told everyone
    the story|The next day they told the story at breakfast], and each time [it got longer|the noise
    got louder]. [<learned> most scary things are not scary when you look at them.|<learned> it is
    easier to be brave with a friend.|]
    """,
)

MOON = Plot(
    "cannot sleep",
    {
        "hero": CHILDREN,
        "mom": FAMILY,
        "toy": SOFT_TOYS,
        "try": table(
            "name but",
            """
            counted sheep          | The sheep began to dance and sing
            drank some water       | Then {he} had to go to the bathroom
            turned the pillow over | It was just as warm on the other side
            sang a song            | It made {him} even more awake
            read a book            | It was so exciting that {he} wanted to read on
            lay with {his} feet up | {His} feet only got cold
            """,
        ),
        "awake": words(
            """
            the owl, the bat, the night train, the night nurse, the baker, the old clock
            """
        ),
        "dream": words(
            """
            flew over the sea, sailed on a cloud, rode a whale, danced with bears, walked on the
            moon, slid down a rainbow
            """
        ),
    },
    """
    <intro> One night {he} could not sleep. [The room was too warm.|The bed was too soft.|{His} head
    was full of thoughts.|The moon was very bright.] {He} turned left, and {he} turned right. First
    {he} {try}. {try.but}. [{hero} sighed.|"It is no use," {he} said.|Even {his} {toy} looked
    tired.]

    {He} [took {his} {toy}|put on {his} slippers] and went to find {mom}. ["I cannot sleep," {he}
    said.|"My eyes will not stay closed," {he} said.|"I think my sleep got lost," {he} said.] ["Then
    let us look out of the window for a while," [said {mom}|{mom} said].|"Come here and sit with
    me," [said {mom}|{mom} said].]

    The moon was [round and white|like a silver boat|big and yellow]. ["Does the moon ever sleep?"
    <asked hero>.|"Who else is awake now?" <asked hero>.] "[The moon watches over all of us|While we
    sleep, the moon keeps the light on]," [said {mom}|{mom} said]. "And I am sure someone else is
    awake too. {Awake}, I think." "What do they do all night?" <asked hero>. ["They take care of the
    dark, so that it is not lonely," [said {mom}|{mom} said].|"They keep the night company," [said
    {mom}|{mom} said].]

    They [listened|sat very still]. {hero} heard [the wind in the trees|a dog far away|the rain on
    the roof of the shed|a cricket]. ["Good night, trees," {he} said|"Good night, moon," {he} said].
    ["Good night, street. Good night, cars.|"Good night, cat. Good night, garden.|"Good night,
    roofs. Good night, clouds.] Good night, {toy}." With each good night, {his} voice got
    [softer|slower|smaller]. [{mom} smiled and did not say a word.|{mom} stroked {his} hair.|{mom}
    hummed an old song.]

    [When {mom} looked down, {hero} was asleep.|Before {he} could say good night to {mom}, {his}
    eyes were closed.] {mom} carried {him} to bed and [tucked {him} in|put the {toy} in {his} arms].
    In {his} dream, {hero} and the {toy} {dream}. And the moon [shone on them all night long|kept
    the light on|smiled through the window]. [In the morning, {hero} said, "Thank you,
    moon."|<learned> the night is a friend too.|]
    """,
)

LITTLE_TRAIN = Plot(
    "little machine",
    {
        "hero": people(
            male="Toot, Chuffy, Rumble, Tommy, Bolt, Digger, Captain, Rocky",
            female="Ruby, Bluebell, Penny, Molly, Sunny, Betty, Dora, Zippy",
        ),
        "sort": table(
            "name big where load trouble sound",
            """
            train | big express train | at the station | milk for the children |
                a steep hill covered with snow | Chuff, chuff
            tugboat | great white ship | in the harbor | bread for the island |
                high waves and thick fog | Toot, toot
            fire truck | big ladder truck | at the fire house | water for a burning barn |
                a narrow street where the big truck did not fit | Wee-oo, wee-oo
            plane | shiny jet | at the airfield | medicine for a village |
                black clouds and strong wind | Putt, putt
            tractor | giant truck | on a farm | hay for the hungry cows |
                deep mud all the way up the road | Rumble, rumble
            bus | long silver bus | at the bus stop | children for the school |
                a road full of holes and ice | Beep, beep
            snow plow | huge snow plow | in the garage | salt and sand |
                a narrow lane that was deep in snow | Scrape, scrape
            """,
        ),
        "color": COLORS,
        "driver": NEIGHBORS,
    },
    """
    [Once upon a time, there was a little {color} {sort} named {hero}.|{hero} was a little {color}
    {sort}.|There once was a small {color} {sort} called {hero}.] {hero} lived {sort.where}. [{He}
    was old and a bit slow.|{He} was the smallest of all.|{His} paint was not new any more.] The
    {sort.big} liked to laugh at {him}. ["You are too small to do real work!"|"You are so
    slow!"|"What can you do, little one?"] it said. <sad>

    One [cold|stormy|dark] day, there was trouble. Somebody had to bring {sort.load}, and the way
    led through {sort.trouble}. ["I cannot go there," said the {sort.big}. "It is too hard."|"Not
    me," said the {sort.big}. "I might get stuck."|The {sort.big} tried, but it got stuck and had to
    come back.]

    {driver} [looked around|scratched {driver.his} head]. "Is there no one who can go?" {driver.he}
    asked.

    ["I will try," said {hero} in a small voice.|"Let me try," said {hero}.] [Everyone laughed, but
    {driver} did not.|Everybody was surprised.] ["You are small, but you have a big heart," said
    {driver}.|"Good for you!" said {driver}. "Let us go."] And off they went. {sort.sound}!
    {sort.sound}!

    It was very hard. [The wind blew in {his} face.|{He} almost stopped.|It got darker and darker.]
    ["I cannot do it," thought {hero}. Then {he} thought of the ones who were waiting.|"Just a
    little more," {he} told {himself}.|"I think I can make it," {he} told {himself}.] [Bit by
    bit|Slowly|Inch by inch], {he} went on. {sort.sound}! [{driver} patted {him} and said, "Do not
    give up."|{He} was tired, but {he} did not give up.]

    And at last, {he} was through! [People ran out and cheered.|Everyone waved and clapped.|"Hooray
    for {hero}!" everyone shouted.] "[You brought {sort.load}|You made it]!" they cried. "[You saved
    the day|Thank you, little {sort}]!" [{hero} felt very proud.|{hero} had never been so
    happy.|{hero} shone with joy.]

    When {hero} came home, the {sort.big} was [very quiet|ashamed]. ["I am sorry I laughed," it
    said. "You were braver than me."|"Will you show me how you did it?" it asked.] ["Of course,"
    said {hero}.|"I just did not stop," said {hero}.] [From that day on, no one laughed at {hero}
    again.|{driver} gave {hero} a new coat of {color} paint.|<learned> being small does not mean you
    cannot do big things.]
    """,
)

WONDER_PLOTS = (MAGIC_FIND, WISH, NOISE, MOON, LITTLE_TRAIN)
