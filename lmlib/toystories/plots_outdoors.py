"""Plots that play outdoors: the park, the garden, the beach, the snow."""

from lmlib.toystories.grammar import Plot, table, words
from lmlib.toystories.words import (
    BRIGHT,
    CHILDREN,
    COLORS,
    FAMILY,
    GRANDPARENTS,
    PARENTS,
    PARK_TOYS,
    TREATS,
)

SHARING = Plot(
    "sharing",
    {
        "hero": CHILDREN,
        "friend": CHILDREN,
        "mom": FAMILY,
        "toy": PARK_TOYS,
        "color": COLORS,
        "also": table(
            "name it",
            """
            a bag of marbles     | my marbles
            a bottle of bubbles  | my bubbles
            a bucket and a spade | my bucket
            a box of chalk       | my chalk
            a big paper plane    | my paper plane
            a long rope          | my rope
            a pair of stilts     | my stilts
            """,
        ),
    },
    """
    <intro> {He} had a [new|shiny|big] {color} {toy}. [It was a gift from {his}
    [grandma|uncle|aunt].|It was {his} favorite thing.|{He} had saved {his} coins to buy it.|]
    <oneday> {hero} took it to the park[ with {mom}|]. <sunny>

    A {friend.kind} named {friend} came [over|up to {him}]. ["Wow, what a nice {toy}!|"I like your
    {toy}.|"That is a great {toy}.] Can I [play with it|try it|have a turn]?" <asked friend>.

    ["No! It is mine," said {hero}.|"No, you might break it," said {hero}.|{hero} held the {toy}
    tight. "No," {he} said. "Go away."] <sad friend> [{friend.He} sat down [alone on a bench|under a
    tree].|{friend.He} walked away [slowly|without a word].]

    {hero} played with the {toy} [alone|all by {himself}]. But [soon it was not so much fun|after a
    while {he} got bored|it was no fun with nobody to play with]. {He} looked at {friend}. [{friend}
    had {also}, but no one to play with|{friend} was playing alone with {also}|{friend} had {also},
    and it looked like fun].

    [{mom} saw it all|{mom} sat down next to {hero}|{mom} came over]. ["How would you feel if you
    were {friend}?" <asked mom>.|"A toy is more fun when you share it," [said {mom}|{mom}
    said].|"Would it not be more fun to play together?" <asked mom>.] {hero} thought about it. [{He}
    did not feel good.|{He} felt bad inside.|{He} knew that {mom} was right.]

    {He} [walked|went|ran] over to {friend}. ["I am sorry I was mean," {he} said. "Do you want to
    play with my {toy}?"|"I am sorry," {he} said. "You can have a turn with my {toy}."|"Let us
    share," {he} said. "You can have the {toy} first."]

    [<glad friend> "And you can play with {also.it}," {friend.he} said.|"Really? Thank you!" said
    {friend}. "And we can share {also.it} too."|{friend} smiled. "You can play with {also.it} too,"
    {friend.he} said.] They [took turns|played and laughed] [until the sun went down|all
    afternoon|until it was time to go home]. [<learned> [sharing makes play more fun|it is nice to
    share|when you share, you get a friend]. |<friends> |"Same time tomorrow?" asked {friend}.
    "Yes!" said {hero}.]
    """,
)

BIKE = Plot(
    "learning to ride",
    {
        "hero": CHILDREN,
        "mom": PARENTS + GRANDPARENTS,
        "color": COLORS,
        "ride": table(
            "name part place ouch",
            """
            bike | the seat | the quiet street | fell on the grass
            bike | the seat | the path in the park | fell and scraped {his} knee
            bike | the handlebars | the empty parking lot | bumped into a bush
            scooter | the handle | the yard | tipped over
            scooter | the handle | the path by the lake | fell and bumped {his} elbow
            skateboard | {his} hands | the playground | fell onto the soft grass
            pair of roller skates | {his} hands | the smooth path | sat down with a bump
            """,
        ),
        "treat": TREATS,
        "sign": words(
            """
            a bird on the fence, a cat on the wall, an old dog, a boy with a ball, a girl with a hat
            """
        ),
    },
    """
    <intro> [For {his} birthday, {he} got|{his} {mom.kin} gave {him}|{He} had been given] a
    [shiny|new] {color} {ride}. [{He} wanted to ride like the big kids.|{He} dreamed of riding fast
    like the wind.|It was just what {he} had hoped for.] But {hero} did not know how to ride it yet.

    <oneday> {mom} took {hero} to {ride.place}. ["Are you ready?" <asked mom>.|"Let us learn to
    ride," [said {mom}|{mom} said].] ["I am scared," <says hero>. "What if I fall?"|"It looks so
    high," <says hero>. "What if I fall?"|{hero} nodded, but {his} knees shook.] ["I will hold on to
    you," [said {mom}|{mom} said].|"I am right here," [said {mom}|{mom} said].|"Everyone falls at
    first," [said {mom}|{mom} said]. "Then you get up again."]

    {mom} held {ride.part}, and {hero} began to [move|roll]. [It went left and right.|At first it
    went very slowly.|Wobble, wobble, wobble!] Then {he} {ride.ouch}. [Ouch!|Bump!|Oh no!] ["I
    cannot do it!" <cried hero>. |"I will never learn!" <cried hero>.|"I want to go home," <says
    hero>.] <sad>

    [{mom} helped {him} up|{mom} brushed off the dust|{mom} gave {him} a hug]. ["I fell many times
    when I was little," {mom.he} said. "Try once more."|"You went farther than you think," {mom.he}
    said. "Shall we try again?"|"Look straight ahead and not at your feet," {mom.he} said.] [{hero}
    wiped {his} eyes|{hero} took a deep breath|{hero} thought for a moment] and tried again. And
    again. [And again.|] {He} went a little farther each time.

    Then something [wonderful|special] happened. {hero} looked [back|around], and {mom} was far
    behind! [{He} was riding all by {himself}!|Nobody was holding on!] ["Look at me! I am doing it!"
    {he} shouted.|"I can ride! I can ride!" {he} shouted.] {He} rode past {sign}. [The wind blew in
    {his} hair.|It felt like flying.|{He} laughed out loud.|The wheels sang on the ground.]

    ["You did it!" <cried mom>.|"I knew you could do it!" <cried mom>.|{mom} clapped and cheered.]
    <proud> [<learned> [you only fail when you stop trying|every fall is a step to learning|you can
    do hard things if you keep trying].|From then on, {hero} rode {his} {ride} every day.|On the way
    home, {hero} did not walk. {He} rode!|They had {treat} to celebrate.]
    """,
)

SWIM = Plot(
    "learning to swim",
    {
        "hero": CHILDREN,
        "friend": CHILDREN,
        "mom": FAMILY,
        "water": words("pool, lake, pond, river"),
        "fish": words("a little frog, a duck, a small fish, a tiny turtle, a dragonfly"),
    },
    """
    <intro> It was [a hot summer day|summer, and it was very hot|the hottest day of the year]. All
    the children were in the {water}. [They splashed and laughed.|They jumped in and out.|They threw
    a big ball.] Only {hero} sat [on the edge|on {his} towel|in the shade], because {he} could not
    swim.

    ["Come in!" called {his} friend {friend}. "The water is [nice|warm|lovely]!"|{his} friend
    {friend} waved. "Come and swim with us!" {friend.he} called.]

    ["I am not hot," said {hero}, but it was not true.|"Maybe later," said {hero}.|"No, thank you,"
    said {hero}. {He} looked at the water and shivered.] <sad>

    {mom} sat down next to {him}. ["Are you afraid of the water?" <asked mom>.|"Is it the water?"
    <asked mom>.] {hero} nodded. "[It is so deep|I think I will sink like a stone|I am afraid to
    sink]," {he} whispered.

    ["Then we will start very small," [said {mom}|{mom} said].|"We can go slowly," [said {mom}|{mom}
    said]. |"I will not let go until you say so," [said {mom}|{mom} said].] First {hero} put in [one
    toe|{his} feet]. [It was cold, but it felt nice.|The water tickled.] Then {he} went in up to
    {his} [knees|belly]. [{He} blew bubbles.|{He} washed {his} face.|{He} jumped up and down.] {mom}
    held {him}, and {he} kicked {his} legs. Splash, splash, splash! "[Good|Very good|Just like
    {fish}]!" said {mom}.

    [They came back every day.|Day after day they practiced.|The next day they came again, and the
    day after that.] [Sometimes {hero} got water in {his} nose.|Sometimes {hero} wanted to give
    up.|It was not easy.] But {he} [kept trying|did not stop]. Then one day {he} said, "Let go now."
    {mom} let go, and {hero} did not sink. {He} was swimming!

    ["Look, {friend}! I can swim!" <cried hero>.|"I am swimming!" <cried hero>. "I am really
    swimming!"] [{friend} cheered.|{friend} clapped and clapped.|"Hooray for {hero}!" <cried
    friend>.] <proud> [The two friends swam side by side until {mom} called them for
    [lunch|dinner].|{hero} and {friend} played in the {water} all day long.] [<learned> big things
    begin with small steps.|<learned> it is all right to start slowly.|Now {hero} was the last one
    to leave the water.]
    """,
)

SEED = Plot(
    "planting a seed",
    {
        "hero": CHILDREN,
        "mom": GRANDPARENTS + PARENTS,
        "plant": table(
            "name seed end wonder",
            """
            sunflower | a small striped seed | taller than {hero} | a big yellow flower
            pumpkin | a flat white seed | as big as a chair | a round orange pumpkin
            bean plant | a smooth brown bean | up to the window | long green beans
            tomato plant | a tiny pale seed | full of fruit | fat red tomatoes
            apple tree | a little brown seed | as high as {his} knee | soft green leaves
            carrot | a seed like a crumb | long and sweet | a crunchy orange carrot
            strawberry plant | a seed like a dot | full of berries | sweet red berries
            rose bush | a hard little seed | full of buds | soft pink roses
            melon | a slippery black seed | as big as a ball | a sweet green melon
            """,
        ),
        "pest": words("a crow, a hungry snail, a fat slug, a rabbit, a goat, a chicken"),
    },
    """
    <intro> <oneday> {his} {mom.kin} gave {him} {plant.seed}. ["What is it?" <asked hero>.|"It is so
    small!" <cried hero>.|"Can I eat it?" <asked hero>.] ["Plant it and see," [said {mom}|{mom}
    said].|"There is a {plant} asleep inside," [said {mom}|{mom} said].|"It is a [surprise|secret],"
    [said {mom}|{mom} said]. "You must wait and see."]

    {hero} [dug|made] a hole in the [garden|soft ground]. {He} put the seed in and covered it with
    [earth|dirt]. [{He} gave it some water|Then {he} watered it with a little can]. [Then {he} sat
    down and waited|{He} looked and looked]. Nothing happened.

    The next day {he} ran [out|to the garden] to look. Nothing. [The day after that, nothing.|{He}
    sang to it. Nothing.|{He} told it a story. Nothing.] ["It does not like me," said {hero}.|"Maybe
    the seed is broken," said {hero}.|"I want it to grow now!" said {hero}.] <sad>

    ["A seed needs [sun, water, and time|time]," {mom} [said|told {him}]. "Do not give up."|"Some
    good things grow slowly," {mom} [said|told {him}].|"It is working under the ground, where you
    cannot see," {mom} [said|told {him}].] So {hero} [watered it every morning|pulled out the
    weeds|took care of it every day]. [One time {pest} came to eat it, but {hero} chased it
    away.|When it was hot, {he} gave it more water.|{He} put a little fence around it.|]

    Then, one [sunny|warm] morning, there was [a tiny green leaf|a bit of green|something green]!
    ["It is here! It is here!" <cried hero>.|"{mom}, come quick! It is growing!" <cried
    hero>.|{hero} danced around the garden.] The plant grew and grew, until it was {plant.end}. [At
    last it gave {hero} {plant.wonder}.|And what did it bring? It brought {plant.wonder}!]

    <proud> ["I made this," {he} said. "Well, the sun and the rain helped."|"You waited, and you
    took good care of it," [said {mom}|{mom} said].|"Thank you, little seed," {he} said.] [<learned>
    [good things take time|waiting is hard, but it is worth it|small things can become great].|And
    {hero} saved [a seed|some seeds] to plant again next year.|{hero} gave one new seed to each of
    {his} friends.]
    """,
)

KITE = Plot(
    "kite",
    {
        "hero": CHILDREN,
        "friend": CHILDREN,
        "color": BRIGHT,
        "tail": words(
            """
            long tail, tail of ribbons, tail of red bows, happy face on it, big star on it, dragon
            on it
            """
        ),
        "help": table(
            "name how",
            """
            a tall man        | He reached up and pulled it down
            a fireman         | He put up his ladder and got it down
            a painter         | She climbed up her ladder and set it free
            the park keeper   | He used a long stick to shake it free
            a tall girl       | She sat on her brother's shoulders and reached it
            a kind farmer     | He brought a ladder from his barn
            {his} big sister  | She climbed up, careful as a cat, and untied it
            {his} big brother | He threw up a rope and shook the branch
            """,
        ),
    },
    """
    <intro> {He} had a {color} kite with a {tail}. [{He} had made it with {his} dad.|It was the best
    kite in town.|It could fly very high.|] <oneday> the wind was [strong|just right|blowing], so
    {hero} and {his} friend {friend} went [to the hill|to the park|to the field].

    {hero} held the string, and {friend} held the kite. ["One, two, three, go!" <cried hero>.|"Run!"
    <cried friend>.] The kite went up, up, up. [It danced in the sky.|It looked like a bird.|It flew
    over the trees.|It went higher than the houses.] <glad> ["Can I hold it?" <asked friend>.
    "Sure," said {hero}.|]

    Then a big wind came. [Whoosh!|Snap!|Whoosh! Snap!] The string slipped [out of {his} hand|away],
    and the kite flew into a tall tree. It was stuck [on a high branch|in the leaves|at the very
    top].

    ["Oh no! My kite!" <cried hero>.|"What do we do now?" <asked hero>.] <sad> [{He} jumped, but
    {he} could not reach it.|{friend} threw a shoe at it, and then the shoe was stuck too.|They
    shook the tree, but the kite did not move. |They pulled the string, but it only got worse.] ["I
    will climb up," said {friend}. "No, it is too high," said {hero}. "You could fall."|"Maybe we
    can climb up," said {friend}. But the tree was too [high|tall] to be safe.]

    "We should ask for help," said [{hero}|{friend}]. They saw {help}[ nearby| walking by| on the
    path]. ["Excuse me, can you help us, please?"|"Please, can you get our kite?"] they asked. ["Of
    course."|"Let me see what I can do."|"I love kites!"] {help.how}.

    ["Thank you, thank you!" said the children.|"You are the best!" said the children.] The kite had
    a [little|small] hole, but [{friend} fixed it with tape|they put a patch on it|it could still
    fly]. [This time they held the string together.|Now they flew it far from the trees.|Soon it was
    dancing in the sky again.] [<learned> it is smart to ask for help.|"Two hands are good, but four
    are better," said {friend}.|They flew the kite until the stars came out. |<night>]
    """,
)

SNOW = Plot(
    "snow day",
    {
        "hero": CHILDREN,
        "friend": CHILDREN,
        "mom": FAMILY,
        "build": table(
            "name need part",
            """
            snowman     | a nose   | a carrot
            snowman     | a hat    | an old black hat
            snowman     | arms     | two long sticks
            snow lady   | a scarf  | a red scarf
            snow bear   | ears     | two round lids
            snow cat    | whiskers | some thin twigs
            snow rabbit | ears     | two big leaves
            snow king   | a crown  | a paper crown
            """,
        ),
        "drink": words("hot chocolate, hot soup, warm milk, hot apple juice, sweet tea"),
    },
    """
    <intro> [One winter morning|One cold morning], {hero} looked out of the window. Everything was
    white! ["It snowed! It snowed!" <cried hero>.|"{mom}, come and look!" <cried hero>.|<glad>]
    [{He} forgot all about breakfast.|{He} ran down the stairs.|] {He} put on {his} [coat, hat, and
    mittens|boots and {his} thick coat|scarf, hat, and boots] and ran outside.

    [{friend} from next door was already there|{his} friend {friend} came out too]. [They threw
    snowballs|They made tracks in the snow|They lay down and made snow angels|They caught snowflakes
    on their tongues]. [Their noses were red|Their breath looked like smoke|The snow went crunch,
    crunch under their feet]. "Let us make a {build}!" <said friend>.

    They rolled a big ball of snow. Then they rolled a [smaller|second] one. [It was so heavy!|They
    pushed and pushed.|It rolled down the hill, and they ran after it.|They puffed and laughed.]
    They gave it two eyes [made of stones|made of buttons|of coal]. ["It looks good," said {hero}.
    "But it needs {build.need}."|But something was missing. It needed {build.need}.]

    [They looked [around|everywhere], but found nothing under the snow.|They tried with snow, but it
    fell off.] <sad> [Then {mom} opened the door.|{hero} ran inside to ask {mom}.|Then {hero} had an
    idea and asked {mom}.] "Will this do?" {mom.he} asked. In {mom.his} hand {mom.he} held
    {build.part}. "It is perfect!" <said hero>. Now the {build} was ready. [It seemed to smile at
    them.|It looked very grand.|"Hello, {build}!" they said.]

    [Soon their hands were cold, so they went in for {drink}.|{mom} called them in for {drink}.|They
    had {drink} by the window and waved at the {build}.] [The next week, the sun was warm, and the
    {build} became [smaller and smaller|a puddle]. {hero} was sad, but {mom} said, "It will come
    back [with the next snow|next winter]."|That night, {hero} said good night to the {build}. {He}
    was sure that it winked.|"This was the best snow day ever," <says hero>. |"I hope it snows again
    tomorrow," <says hero>.] [<learned> some things do not last, but you can always remember
    them.||<night>]
    """,
)

BEACH = Plot(
    "beach",
    {
        "hero": CHILDREN,
        "friend": CHILDREN,
        "mom": FAMILY,
        "shell": words(
            """
            pink shell, white shell, smooth stone, feather, starfish, bit of green sea glass
            """
        ),
        "treat": TREATS,
        "creature": table(
            "name trouble",
            """
            crab     | lay on its back and could not turn over
            starfish | lay on the dry sand, far from the water
            fish     | was caught in a small pool that was getting dry
            turtle   | was stuck in an old net
            gull     | had a string around its foot
            crab     | had its claw stuck in a can
            """,
        ),
    },
    """
    <intro> <oneday> {hero} went to the beach with {mom}. <sunny> [The sea was big and blue.|The
    waves went up and down.|The sand was hot under {his} feet.] {hero} [ran to the water|took off
    {his} shoes|laughed at the waves].

    {He} wanted to build [a big sand castle|the biggest castle in the world]. {He} [filled {his}
    bucket|dug in the sand] and made [four towers|a tall tower and a wall]. [It had a door made of
    shells.|{He} put a {shell} on top.|It had a river all around it.] A {friend.kind} named {friend}
    [came to help|asked, "Can I help?" and {hero} said yes]. They worked [side by side|hard].

    [Then a big wave came. Splash! It washed the castle away.|But the water came closer and closer.
    Splash! A wave knocked the castle down.] ["Our castle!" <cried friend>.|"Oh no!" <cried hero>.]
    <sad>

    [But look! The wave had left something behind.|But then {friend} pointed at something.|Just then
    {hero} saw something move.] It was a {creature} that {creature.trouble}. ["The poor thing," said
    {friend}.|"It needs our help," said {friend}.|"We must help it," said {hero}.] ["Be gentle,"
    [said {mom}|{mom} said].|{mom} showed them how to hold it. |They were very careful.] Together
    they [set it free and put it back in the sea|helped it and took it back to the sea]. [It swam
    away.|Soon it was gone under the waves.|For a moment it seemed to wave at them.]

    "The castle is gone, but [I feel happy|we did something good]," <said hero>. ["We can build a
    new one," said {friend}. "A better one!"|"And we can build another," said {friend}.] So they
    did, a little [farther|higher] up the sand. [Then {mom} bought them {treat}.|They took a picture
    of it.|They put the {shell} on the highest tower.] [When the sun went down, {hero} did not want
    to go home.|On the way home {hero} fell asleep in the car.|<friends>] [<learned> you can always
    build again.|<learned> helping feels better than the biggest castle.|]
    """,
)

MARKET = Plot(
    "lost at the market",
    {
        "hero": CHILDREN,
        "mom": FAMILY,
        "place": table(
            "name see keeper where",
            """
            the market | a man who juggled apples | a woman who sold flowers | by the flower stand
            the market | a cage with little birds | an old man who sold eggs | by the egg stand
            the fair | a clown with balloons | a lady who sold tickets | by the ticket booth
            the zoo | the monkeys | a zoo keeper | by the big gate
            the big store | a train that went round and round | a man at the desk |
                by the front desk
            the station | a long silver train | a woman in a blue cap | under the big clock
            the museum | a huge dinosaur | a guard | by the stairs
            the circus | a dog on a ball | a man with a big drum | by the red tent
            """,
        ),
        "wear": words("green coat, yellow hat, red scarf, blue jacket, striped shirt, white hat"),
        "snack": TREATS,
    },
    """
    <intro> <oneday> {he} went to {place} with {mom}. [There were so many people!|It was loud and
    full of people.|There was so much to see.] ["Hold my hand," [said {mom}|{mom} said]. "Do not run
    off."|"Stay close to me," [said {mom}|{mom} said].] "I will," said {hero}.

    But then {hero} saw {place.see}. [How wonderful!|{He} had never seen such a thing.|{He} had to
    take a closer look.] {He} let go of {mom}'s hand and [went|ran] to look. [{He} laughed and
    clapped.|{He} watched for a long time.] When {he} turned around, {mom} was gone.

    ["{mom}?" {he} called. "Where are you?"|"{mom}!" {he} called. "{mom}!"] Nobody answered. [{He}
    saw a {wear} like {mom}'s and ran after it, but it was someone else.|There were only strange
    faces.|{He} saw only legs and bags.] <scared> <sad>

    Then {he} remembered what {mom} had [told {him}|said]: "If you get lost, [stay in one place and
    ask for help|do not run. Ask someone who works there]." {hero} [wiped {his} eyes|took a deep
    breath] and went up to {place.keeper}. ["Excuse me," {he} said. "I am lost. I cannot find
    {mom}."|"Please help me," {he} said. "I have lost {mom}."]

    ["You were right to ask," was the [kind|friendly] answer. "What is your name?" |"Do not worry.
    We will find {mom.him}," came the [kind|friendly] answer. "What is your name?"] "My name is
    {hero}," {he} said. "{mom} has a {wear}." So they waited together {place.where}. [{hero} got
    {snack} and felt a little better.|Someone called {his} name very loudly, so that all could
    hear.|{hero} counted to one hundred.]

    Then {he} saw a {wear} in the crowd. It was {mom}! ["{hero}! There you are!" <cried mom>.|{mom}
    ran up and hugged {him} tight.] ["I am sorry I let go," said {hero}.|"I will not run off again,"
    said {hero}.] ["I was scared too," [said {mom}|{mom} said]. "But you did the right thing."|"I am
    so glad you asked for help," [said {mom}|{mom} said].] [{hero} held {mom}'s hand all the way
    home.|<learned> it is good to stay close and to ask for help.|On the way home, {hero} did not
    let go of {mom}'s hand, not even once.]
    """,
)

OUTDOOR_PLOTS = (SHARING, BIKE, SWIM, SEED, KITE, SNOW, BEACH, MARKET)
