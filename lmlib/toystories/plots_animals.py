"""Fables: animals that talk, with a lesson at the end."""

from lmlib.toystories.grammar import Plot, table, words
from lmlib.toystories.words import CREATURES, FOREST_ANIMALS

GREEDY = Plot(
    "greedy animal",
    {
        "hero": CREATURES,
        "friend": CREATURES,
        "animal": FOREST_ANIMALS,
        "other": FOREST_ANIMALS,
        "stuck": table(
            "name how",
            """
            {his} own door   | {He} was so full that {he} could not fit
            a hole in a log  | {He} had put so much inside that {he} could not move
            a narrow gap     | {His} bag was so fat that it would not go through
            the garden fence | {His} tummy was as round as a ball
            """,
        ),
    },
    """
    <creature> {hero} loved {animal.food} [more than anything|very much]. [{He} always wanted
    more.|{He} never shared. |No matter how much {he} had, it was not enough.|{He} could eat all day
    long.]

    <oneday> {he} found a [big|huge|great] pile of {animal.food} [by the path|under a tree|near the
    stream|behind a rock]. ["They are all mine!" {he} said.|"What luck! All for me!" {he} said.|"I
    will eat every bit," {he} said.] A little {other} named {friend} came by. ["I am so hungry,"
    said {friend}. "May I have some, please?"|"Could you share some with me, please?" <asked
    friend>. "I have not eaten all day."|"May I have just a little?" <asked friend>.]

    ["No! Go away!" said {hero}.|"No," said {hero}. "I found them first."|"There is not enough for
    two," said {hero}.] <sad friend> [{friend.He} went away.|{friend.He} walked off with an empty
    tummy.] {hero} ate and ate. [{He} ate until it got dark.|{He} ate until {his} tummy hurt.|{He}
    did not stop to rest.] What {he} could not eat, {he} wanted to carry home.

    But on the way, {he} got stuck in {stuck}. {stuck.how}. [{He} pulled and pushed, but it was no
    use.|{He} wiggled and kicked.|{He} could not go in, and {he} could not go out.] "Help! Help!"
    {he} called. [It began to get dark.|The wind was cold.|An owl hooted.] <scared>

    [{friend} heard {hero} and came [running|back].|Who came? It was {friend}.] ["I was not nice to
    you," said {hero}. "Why do you help me?"|"You? After I was so mean?" <asked hero>.] ["Because
    you need help," said {friend}.|"No one should be alone in the dark," said {friend}.|"A friend is
    worth more than {animal.food}," said {friend}.] {friend} took hold of {hero}'s paws and
    [pulled|pulled hard]. [One, two, three, pop!|Pop!] {hero} was free!

    {hero} [felt ashamed|was sorry|looked at the ground]. ["Please take half of my {animal.food},"
    {he} said.|"From now on, I will share," {he} said.|"Come to my home and eat with me," {he}
    said.] [They ate together under the [moon|stars]. |They sat side by side and ate.] And the food
    [had never tasted so good|tasted twice as good]. [<learned> it is better to share than to have
    it all.|<friends>|<learned> those who want everything may end up stuck.]
    """,
)

PROUD = Plot(
    "proud animal",
    {
        "hero": CREATURES,
        "friend": CREATURES,
        "pair": table(
            "name feature slow boast trouble save",
            """
            peacock | beautiful tail | sparrow | the most beautiful of all |
                {hero}'s long tail got caught in a thorn bush | picked off the thorns one by one
            deer | tall horns | mouse | the finest of all |
                {hero}'s horns got caught in the branches of a tree | gnawed through the twigs
            rooster | loud voice | hen | the best singer of all |
                {hero} lost {his} voice and could not call for help when a fox came |
                cried out and woke the dog
            swan | long white neck | duck | the prettiest on the pond |
                {hero}'s neck got stuck in the reeds | swam over and parted the reeds
            hare | fast legs | snail | the fastest of all | {hero} ran into a deep hole |
                showed {him} a way out under the grass
            lion | big mane | beetle | the king of all | burrs got stuck all over {hero}'s mane |
                pulled out every burr
            cat | soft white fur | frog | the cleanest of all |
                {hero} fell into the mud and could not get out | pushed a stick over to {him}
            parrot | bright feathers | pigeon | the most colorful of all | {hero} flew into a net |
                bit through the ropes
            butterfly | lovely wings | ant | the lightest of all |
                {hero} got caught in a spider's web | cut the sticky threads
            goat | strong horns | hedgehog | the strongest of all |
                {hero} got stuck on a high rock | showed {him} the safe path down
            """,
        ),
        "place": words(
            """
            in a big field, by a quiet lake, on a sunny farm, near a green wood, in a garden with a
            wall
            """
        ),
    },
    """
    [Once upon a time, there was a {pair} named {hero} who lived {place}.|A {pair} named {hero}
    lived {place}.|Long ago, {place}, there lived a {pair} named {hero}.] {hero} was very proud of
    {his} {pair.feature}. [All day long {he} talked of nothing else.|{He} looked at {himself} in the
    water every day.|{He} thought that no one else was so special.] "I am {pair.boast}!" {he} would
    say.

    <oneday> {he} met a little {pair.slow} named {friend}. ["Look at me," said {hero}. "Do you not
    wish you were like me?"|"You are so small and plain," {hero} laughed.|"Why are you so dull?"
    <asked hero>. "You have nothing like my {pair.feature}."] {friend} [was hurt|felt small], but
    {friend.he} [said nothing|kept quiet]. {friend.He} only [sighed|smiled|walked on].

    [The next day|Later that day|A few days later], something [bad|terrible] happened.
    {pair.trouble}. [{He} tried and tried, but it was no use.|The more {he} tried, the worse it
    got.|There was no one to see how fine {he} was.] <scared>

    [But {friend} was near|Little {friend} saw it all]. ["Hold still," said {friend}. "I will help
    you."|"Do not be afraid," said {friend}. "I know what to do."] And the little {pair.slow}
    {pair.save}. [It took a long time.|It was hard work for someone so small.|Soon it was over.]
    {hero} was safe.

    ["I was unkind to you, and you helped me," said {hero}. "I am sorry."|"I am sorry I laughed at
    you," said {hero}. "You are small, but you are great."|{hero} bowed {his} head. "Thank you,"
    {he} said. "You are the special one."] ["We all need each other," said {friend}.|"It is all
    right," said {friend}. "Would you like to be friends?"|{friend} smiled. "Your {pair.feature} may
    be grand, but a kind heart is better," {friend.he} said.] [<learned> [being kind is better than
    being grand|it is not how you look that matters|everyone is good at something].|{hero} never
    [bragged|boasted] again. |<friends>]
    """,
)

MOUSE_HELPS = Plot(
    "small helps big",
    {
        "hero": CREATURES,
        "friend": CREATURES,
        "small": table(
            "name move",
            """
            mouse   | ran
            sparrow | flew
            frog    | hopped
            ant     | crawled
            lizard  | ran
            bee     | flew
            """,
        ),
        "big": words("lion, bear, tiger, elephant, wolf, buffalo, rhino"),
        "trap": table(
            "name free",
            """
            caught in a hunter's net |
                went to fetch all {his} brothers and sisters. They bit the net until it broke
            tied up with a tight rope | pulled and picked at the knot until it came loose
            at the bottom of a deep pit | fetched the monkeys, and they let down a long vine
            held down by a heavy branch | brought the beavers, and they cut the branch in two
            lost in a thick wood full of thorns | found a way through and led the way out
            locked in an old cage | found the key in the grass and turned it in the lock
            """,
        ),
    },
    """
    [On a hot day|One day|Long ago], a {big} named {friend} was asleep [under a tree|in the shade|in
    the tall grass]. A little {small} named {hero} [{small.move} by|came that way] and [bumped
    into|landed on] {friend.his} nose by mistake. The {big} woke up. [{friend.He} was very
    angry.|"Who woke me up?" {friend.he} roared.|{friend.He} held {hero} under {friend.his} big
    foot.]

    <scared> ["Please let me go," <said hero>. "I did not mean to wake you."|"Please do not hurt
    me," <said hero>. "I am so small."] [Then {he} had an idea. "One day I will help you too," {he}
    said.|"Be kind to me now, and one day I will be kind to you," {he} said.]

    {friend} [laughed|laughed until the ground shook]. ["How could you help me? You are so
    tiny!"|"You? Help me? That is very funny!"|"A {small} help a {big}? What a joke!"] But
    {friend.he} [felt sorry for the little {small}|was in a better mood now], and {friend.he} let
    {him} go. ["Thank you! I will not forget it," said {hero}.|{hero} {small.move} home as fast as
    {he} could.]

    [Some time later|A week later|One night], {friend} was {trap}. [{friend.He} pulled and roared,
    but {friend.he} could not get free.|{friend.He} was strong, but that did not help.|The more
    {friend.he} pulled, the worse it got.] ["Help!" {friend.he} cried.|All the animals heard
    {friend.him}, but they were afraid to come close.]

    {hero} heard {friend.him}. "I know that voice," {he} said. {He} [came at once|was not afraid
    now]. ["Be still. I am here to help," said {hero}.|"Now it is my turn," said {hero}.|"I told you
    I would help you," said {hero}.] {He} looked around, and then {he} {trap.free}. [It took all
    night.|It was hard work.|At last it was done.] {friend} was free!

    [<joy friend>|{friend} could not believe it.] ["I laughed at you, but you saved me," {friend.he}
    said.|"You are small, but your heart is big," {friend.he} said.|"Thank you, little friend,"
    {friend.he} said.] [<friends>|<learned friend> even the smallest friend can be a great
    help.|<learned friend> no kind act is ever lost.|After that, {hero} often rode on {friend}'s
    back, and no one in the forest laughed.]
    """,
)

RACE = Plot(
    "race",
    {
        "hero": CREATURES,
        "friend": CREATURES,
        "slow": words("turtle, snail, hedgehog, duck, mole, toad, beetle"),
        "fast": words("rabbit, fox, deer, horse, hare, squirrel, dog"),
        "goal": words(
            """
            the old oak tree, the bridge, the big rock, the mill, the pond, the red barn
            """
        ),
        "stop": table(
            "name ing",
            """
            to take a nap under a tree                 | sleeping
            to eat berries from a bush                 | eating
            to look at {friend.himself} in a puddle    | looking at {friend.himself}
            to tell everybody how fast {friend.he} was | talking
            to play a game with a butterfly            | playing
            to pick some sweet clover                  | picking clover
            """,
        ),
        "judge": words("owl, crow, frog, old goat, bear"),
    },
    """
    [In the green forest|Long ago|Once upon a time] there lived a {fast} named {friend} and a {slow}
    named {hero}. {friend} was [very fast|as fast as the wind], and {friend.he} liked to [say
    so|boast]. "No one is as fast as me!" {friend.he} said [every day|all the time]. ["And you,
    {hero}, are the slowest of all!"|{friend.He} laughed at {hero}, who was so slow.]

    [{hero} was tired of it|One day {hero} had heard enough]. ["Let us have a race," said {hero}.|"I
    will race you," said {hero}.] Everyone [laughed|was surprised]. ["You? Race me? Ha!" <said
    friend>.|"You will lose," <said friend>. "But all right."] They would run to {goal}. All the
    animals came to watch. ["Ready, set, go!" said the {judge}.|The {judge} counted to three, and
    off they went.]

    {friend} ran off and was soon out of sight. {hero} went [bit by bit|slowly, but {he} did not
    stop|on and on at the same slow pace]. {friend} looked back and could not see {hero} at all. ["I
    have so much time," {friend.he} said.|"This is too easy," {friend.he} said.] So {friend.he}
    stopped {stop}. [The sun was warm, and time went by.|{friend.He} forgot about the race. |The
    clouds went by, and so did the time.]

    But {hero} did not stop. {He} was [tired|hot|thirsty|tired and hot], but {he} kept going. ["Just
    a little more. And a little more," {he} told {himself}.|"Slow is all right," {he} told
    {himself}.|"I can do it," {he} told {himself}.] {He} went right past {friend}, who was still
    {stop.ing}.

    When {friend} [looked up|remembered the race], {hero} was almost there! {friend} [ran and
    ran|ran as fast as {friend.he} could], but it was too late. {hero} came to {goal} first! [All
    the animals cheered.|"{hero} wins!" called the {judge}. |What a cheer there was!] <joy>

    ["You won," said {friend}. "I will not laugh at you again."|{friend} hung {friend.his} head. "I
    was foolish," {friend.he} said. |"How did you do it?" <asked friend>. "I just kept going," said
    {hero}.] [<learned friend> slow and steady wins the race. |<learned friend> it is not smart to
    brag.|<learned friend> you should never give up, and never brag.]
    """,
)

CRY_WOLF = Plot(
    "false alarm",
    {
        "hero": CREATURES,
        "friend": CREATURES,
        "animal": FOREST_ANIMALS,
        "danger": table(
            "name sign",
            """
            a wolf  | two yellow eyes behind a bush
            a fire  | gray smoke above the trees
            a flood | the river rise over its banks
            a hawk  | a dark shadow in the sky
            a snake | something long move in the grass
            a storm | a black wall of clouds
            """,
        ),
        "joke": words(
            """
            rolled on the ground and laughed, held {his} sides and laughed, clapped and giggled,
            laughed until {he} had the hiccups
            """
        ),
    },
    """
    <creature> {hero} liked to play tricks[ on everyone|, and {his} tricks were not always kind|].
    It was {his} job to [watch over|look out for danger near] the [meadow|hill|nests], and [it was
    boring|nothing ever happened].

    <oneday> {hero} had an idea. "Help! There is {danger}!" {he} shouted. All the animals [came
    running|dropped what they had and ran]. [Old {friend} came too, out of breath.|{friend} ran so
    fast that {friend.he} lost {friend.his} hat.] But there was nothing there. {hero} {joke}. ["I
    fooled you!" {he} said.|"It was only a joke!" {he} said.|"You should see your faces!" {he}
    said.]

    ["That was not funny," said {friend}.|"Do not call for help when you do not need it," said
    {friend}.|{friend} shook {friend.his} head. "One day you will be sorry," {friend.he} said.] They
    all went [home|back to work]. [But {hero} did not listen.|The next day {he} did it again.|Two
    days later, {hero} did the same thing.] "Help! {Danger}!" [Again they came, and again there was
    nothing.|Again they ran, and again {he} laughed.] [Now they were angry.|"We will not come
    again," they said.]

    Then, one evening, {hero} saw {danger.sign}. [This time it was real!|It was {danger}, a real
    one!] <scared> ["Help! Help!" {he} shouted. "There is {danger}!"|"{Danger}! {Danger}!" {he}
    shouted. "Please come!"] But nobody came. ["That {animal} is at it again," said the animals.|"It
    is just another trick," said the animals.] [{hero} began to cry.|{hero} shouted until {his}
    voice was gone.]

    Only {friend} stopped and listened. "{His} voice sounds different," {friend.he} said.
    [{friend.He} went to look|{friend.He} climbed up the hill], just in time. {friend} saw it too
    and [rang the old bell|called the others]. Now they [all came and helped|all ran to a safe
    place], and no one was hurt.

    ["Why did you not believe me?" <asked hero>.|{hero} looked at the ground.] ["How could we know?"
    said {friend}. "You had cried for nothing so many times."|"When you trick your friends, they
    stop trusting you," said {friend}.] ["I am sorry," said {hero}. "I will never do it again."|"I
    am so sorry," said {hero}. "From now on I will tell the truth."] And {he} kept {his} word.
    [<learned> if you tell lies, no one believes you when you tell the truth.|<learned> help is not
    a thing to joke about.|After that, when {hero} called, everyone came.]
    """,
)

SOUP = Plot(
    "sharing soup",
    {
        "hero": CREATURES,
        "friend": CREATURES,
        "animal": FOREST_ANIMALS,
        "other": FOREST_ANIMALS,
        "third": words("goose, turtle, crow, goat, sheep, pig, hen, donkey"),
        "season": words("winter, a cold winter, a dry summer, a hungry spring, a stormy autumn"),
        "thing": words(
            """
            a smooth stone, an old button, a rusty nail, a wooden spoon, a round pebble
            """
        ),
        "one": words("two onions, a cabbage, some potatoes, a few carrots, a bunch of leeks"),
        "two": words(
            """
            a handful of beans, a bag of rice, some peas, a little salt, sweet corn, three turnips
            """
        ),
    },
    """
    <creature> It was {season}, and there was very little to eat. [Everyone kept what they had for
    themselves.|All the doors were shut.|Nobody shared with anybody.] {hero} had nothing left but an
    old pot.

    {He} [knocked at the door of|went to see] a {other} named {friend}. "Do you have something to
    eat?" {he} asked. ["No, I have nothing," said {friend}. But it was not true.|"Not for you," said
    {friend} and shut the door.|"I have only enough for me," said {friend}.] <sad>

    [Then {hero} had an idea|But {hero} did not give up]. {He} put the pot on a fire in the middle
    of the [clearing|path], filled it with water, and dropped in {thing}. ["What are you doing?"
    <asked friend>.|{friend} looked out of the window. "What is that?" {friend.he} asked.] ["I am
    making soup," said {hero}. "It will be wonderful."|"I am cooking the best soup in the world,"
    said {hero}. "It is my grandma's secret."] ["Soup from {thing}?" said {friend}. "I have to see
    that."|{friend} came out to see.]

    {hero} tasted it. ["Mmm, very good," {he} said. "It only needs {one}."|"Almost perfect," {he}
    said. "If only I had {one}!"] [{friend} thought for a moment. "I may have that," {friend.he}
    said, and {friend.he} ran home.|"Wait, I have that!" said {friend}.] Then a {third} came by.
    ["What smells so good?" asked the {third}. "It is soup," said {hero}. "It only needs
    {two}."|"May I taste it too?" asked the {third}. "Of course," said {hero}. "But it would be even
    better with {two}."] The {third} [had just that|went to get it]. [One after another, the animals
    came, and each of them brought something.|Soon everyone had put something in the pot.]

    At last the soup was ready. [It was thick and hot.|It smelled like a feast.|Steam rose up to the
    stars.] They all sat [around the fire|close together] and ate. [It was the best soup they had
    ever had.|There was enough for everyone, and some was left.] ["And all from {thing}!" <said
    friend>.|"Who would have thought it?" <said friend>.] {hero} [smiled|winked|laughed]. ["No,"
    {he} said. "It was all of us."|"The secret is not in the pot," {he} said. "It is in the
    sharing."]

    [<learned friend> when everyone gives a little, there is enough for all.|From then on, they
    cooked together every evening, and nobody was hungry.|<learned friend> sharing can make a feast
    out of nothing.|They sang until the moon came up.]
    """,
)

CATERPILLAR = Plot(
    "being different",
    {
        "hero": CREATURES,
        "friend": CREATURES,
        "sort": table(
            "name lack others time end mean",
            """
            caterpillar | could not fly | bees | slept in a silk bed all winter |
                had two bright wings | You only crawl and eat
            gray chick | was gray and clumsy | ducklings | grew and grew all summer |
                was a beautiful white swan | You are not yellow like us
            tadpole | had no legs | frogs | grew one leg, and then three more |
                could jump higher than all of them | You cannot even hop
            baby owl | could not sing | robins | practiced night after night |
                knew the songs of the night | You only say hoo
            bat | slept upside down | swallows | learned to fly in the dark |
                was the best flyer of the night | You sleep all day
            young pine tree | had needles, not leaves | maple trees | waited until the winter came |
                was the only green tree in the snow | You have no pretty leaves
            """,
        ),
    },
    """
    [Once upon a time, there was a {sort} named {hero}.|There once was a {sort} called
    {hero}.|{hero} was a little {sort}.] {hero} {sort.lack}. [That made {him} different from the
    {sort.others} all around.|All around {him} were {sort.others}, and they were not like {him}.]
    The {sort.others} laughed at {him}. ["{sort.mean}," they said.|"{sort.mean}!" they called. "You
    cannot be one of us."] <sad>

    ["Why can I not be like the others?" <asked hero>.|"I wish I were like them," <said hero>.|"What
    is wrong with me?" <asked hero>.] An old snail named {friend} heard {him}. ["Nothing is wrong
    with you," said {friend}.|"You are just right," said {friend}.] ["You are not like them, because
    you are you.|"Not everyone grows in the same way.|"Some of us take a little longer.] [Wait and
    see|Give it time|Be patient]."

    So {hero} waited. {He} {sort.time}. [Sometimes {he} was lonely, but {friend} came to visit every
    day.|{friend} told {him} stories about the wide world.|Rain came, and sun, and wind.] ["Is it
    time yet?" {he} asked. "Not yet," said {friend}.|"Do you feel it?" {friend} asked. "Something is
    changing."|]

    Then one [morning|day] {hero} [woke up and felt strange|looked at {himself} and could not
    believe it]. {He} {sort.end}! ["Is that really me?" {he} asked.|"Look at me, {friend}!" {he}
    cried.] <joy> ["I always knew it," said {friend}.|"It was inside you all the time," said
    {friend}.]

    The {sort.others} [stared|came to look|did not laugh any more]. ["How wonderful!" they said. "We
    did not know."|"We are sorry that we laughed," they said.|"Will you be our friend?" they asked.]
    {hero} [was not angry|smiled]. ["Everyone is different," {he} said. "That is what makes it
    fun."|"You can all be my friends," {he} said. "But {friend} was my first one."] [<learned> it is
    good to be yourself.|<learned> everyone grows in their own time.|And whenever someone laughed at
    a little one, {hero} said, "Wait and see."]
    """,
)

WINTER_STORE = Plot(
    "getting ready for winter",
    {
        "hero": CREATURES,
        "friend": CREATURES,
        "lazy": words("grasshopper, cricket, frog, butterfly, lizard, blackbird"),
        "busy": table(
            "name work food home",
            """
            ant      | carried grain                          | grain  | under the hill
            squirrel | hid nuts                               | nuts   | in the old oak tree
            mouse    | gathered seeds                         | seeds  | under the barn
            bee      | made honey                             | honey  | in the hollow tree
            chipmunk | filled {friend.his} cheeks with acorns | acorns | between the roots
            hamster  | dragged corn home                      | corn   | under the field
            """,
        ),
        "fun": words(
            """
            sang, danced, lay in the sun, played the fiddle, swung on a leaf, played the flute
            """
        ),
    },
    """
    All summer long, a {lazy} named {hero} {fun}. [The sun was warm, and food was everywhere.|{He}
    did not have a care in the world.|The days were long and sweet.] {His} neighbor, a {busy} named
    {friend}, {busy.work} from morning until night.

    ["Why do you work so hard?" <asked hero>. "Come and play with me!"|"Leave that and have some
    fun," <said hero>.|"It is too hot to work," <said hero>.] ["Winter is coming," said {friend}.
    "You should get ready too."|"I must get ready for winter," said {friend}. "So should you."]
    ["Winter is far away," said {hero}, and {he} laughed.|"I will do it tomorrow," said {hero}. But
    {he} did not.|"There is so much time," said {hero}.]

    [The leaves turned red and fell.|Then the days got shorter.] [A cold wind blew.|The birds flew
    south.] And one morning, [the ground was white|everything was covered with snow]. {hero} looked
    for food, but there was [nothing|none at all]. [{He} was cold.|{He} shook from head to toe.|{He}
    had no home and no coat.] {He} was so hungry. <sad>

    At last {he} went to {friend}'s house {busy.home} and knocked. "Please help me," {he} said. "I
    am cold and hungry. [May I come in|Do you have some food]?" {friend} [opened the door|looked
    out]. ["I told you that winter would come," {friend.he} said.|"And what did you do all summer?"
    {friend.he} asked.] ["You were right, and I was foolish," said {hero}.|"I played," said {hero}
    and looked down. "I did not think."]

    {friend} thought for a moment. {friend.He} [could not leave {him} in the snow|had a kind heart].
    ["Come in and get warm," {friend.he} said. "There is enough for two, if we are careful."|"Come
    in," {friend.he} said. "I will share my {busy.food}, and you can make music for me."] {hero}
    [was so thankful that {he} began to cry|thanked {friend.him} again and again]. All winter, they
    ate {busy.food}, [and {hero} told funny stories|and {hero} sang by the fire|and the evenings
    were never dull].

    When [spring|the warm weather|spring at last] came, {hero} [got up early|was the first to get
    up]. ["Where are you going?" <asked friend>.|"What are you doing?" <asked friend>.] ["To work!"
    said {hero}. "This year I will help you."|"I am getting ready for winter," said {hero}. "And
    then we will play."] [So they worked together, and they played together too.|<learned> first
    comes the work, and then comes the fun.|<learned> it is wise to think of tomorrow.|<friends>]
    """,
)

ANIMAL_PLOTS = (
    GREEDY,
    PROUD,
    MOUSE_HELPS,
    RACE,
    CRY_WOLF,
    SOUP,
    CATERPILLAR,
    WINTER_STORE,
)
