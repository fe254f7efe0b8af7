"""Plots about family, school and friends."""

from lmlib.toystories.grammar import Plot, table, words
from lmlib.toystories.words import (
    BRIGHT,
    CHILDREN,
    COLORS,
    DINNERS,
    FAMILY,
    GRANDPARENTS,
    NEIGHBORS,
    PARENTS,
    PET_NAMES,
    PETS,
    SNACKS,
    TEACHERS,
    TREATS,
)

NEW_FRIEND = Plot(
    "new friend",
    {
        "hero": CHILDREN,
        "friend": CHILDREN,
        "mom": FAMILY,
        "thing": table(
            "name play talk",
            """
            a red ball | threw the ball back and forth | Do you like to play ball
            a box of crayons | drew funny animals | Do you like to draw
            a long jump rope | jumped and counted to a hundred | Can you jump rope
            a book about dinosaurs | read about the biggest dinosaurs | Do you like dinosaurs
            a bag of marbles | rolled the marbles in the dirt | Do you want to play marbles
            a pair of toy cars | raced the cars down the slide | Do you want to race
            a big bottle of bubbles | blew bubbles bigger than their heads |
                Do you want to blow bubbles
            a puzzle | did the whole puzzle | Do you like puzzles
            a bucket and two spades | dug a tunnel in the sandbox | Do you want to dig with me
            a paper crown | played king and queen | Do you want to wear my crown
            """,
        ),
        "snack": SNACKS,
        "from": words(
            """
            from far away, from another town, from a farm, from across the sea, from the big city,
            from the mountains
            """
        ),
    },
    """
    <intro> <oneday> [a big truck stopped at|a new family moved into|there was noise in] the house
    next door. A {friend.kind} [sat on the steps|stood by the fence|looked over the wall].
    [{friend.His} name was {friend}, and {friend.he} came {from}.|It was {friend}. {friend.He} came
    {from}.] {friend} did not know anyone. [{friend.He} looked lonely.|{friend.He} looked
    sad.|{friend.He} held {friend.his} old blanket tight.]

    {hero} [wanted to say hello|wanted to be nice], but {he} was shy. ["What if {friend.he} does not
    like me?" {he} asked {mom}. |"I do not know what to say," {he} told {mom}.] ["A smile is a good
    way to start," [said {mom}|{mom} said].|"Take something to share," [said {mom}|{mom}
    said].|"Maybe {friend.he} feels shy too," [said {mom}|{mom} said].]

    So {hero} took {thing} and [went over|walked to the fence]. {His} heart [beat fast|went thump,
    thump]. ["Hello, I am {hero}. |"Hi, my name is {hero}.] {thing.talk}?" {he} asked.

    At first {friend} [said nothing|only looked at {friend.his} shoes|hid behind a box]. Then
    {friend.he} [nodded|smiled a little|came closer]. ["Yes, I do," <whispered friend>.|"Yes,"
    <whispered friend>. "I would like that."] Together they {thing.play}. [They laughed [and
    laughed|a lot].|Soon they were not shy any more.|They talked and talked.]

    ["Where I come from, we have a game too," said {friend}, and {friend.he} taught it to
    {hero}.|{hero} showed {friend} the best tree to climb.|They shared {snack} on the
    steps.|{friend} told {hero} all about {friend.his} old home.] [When the sun went down, {mom}
    called {hero} home.|When it was time for dinner, they did not want to stop.] ["Will you come
    again tomorrow?" asked {friend}.|"See you tomorrow?" asked {friend}.] "[Yes, yes, yes!|Of
    course!|Yes! First thing in the morning!]" said {hero}.

    [<friends>|<learned> it only takes one smile to make a friend.|"I was so scared, and it was so
    easy," {hero} told {mom}. |That night, {friend} was not lonely any more, and {hero} was not
    shy.]
    """,
)

BIRTHDAY = Plot(
    "birthday surprise",
    {
        "hero": CHILDREN,
        "friend": CHILDREN,
        "mom": PARENTS,
        "age": words("four, five, six, seven"),
        "gift": words(
            """
            a puppy with a bow, a new bike, a real telescope, a guitar, a tree house, a kitten,
            a box of paints, a fish tank, a pair of roller skates, a big drum, a toy kitchen
            """
        ),
        "cake": words("chocolate, strawberry, lemon, banana, vanilla, carrot, honey"),
        "color": BRIGHT,
    },
    """
    <intro> One morning {he} woke up and [jumped out of bed|smiled]. It was {his} birthday! Today
    {he} was {age} years old.

    {He} ran to the kitchen. "Good morning!" {he} said. {He} waited for someone to say, "Happy
    birthday!" But {mom} only [said, "Eat your breakfast."|drank {mom.his} tea.|looked out of the
    window and yawned.|asked, "Did you brush your teeth?"] {hero} [was surprised|did not
    understand].

    {He} went to see {his} [best friend|friend] {friend}. ["I am busy today," said {friend}, and
    {friend.he} closed the door. |"Sorry, I cannot play today," said {friend}.|But {friend} was not
    at home.] <sad> ["Everyone forgot my birthday," {he} thought. |"Nobody remembers," {he}
    thought.] {He} sat [on the swing|under a tree|on the front steps] all alone. [Even the birds
    were quiet.|A cat came and sat with {him}.|]

    [Then {mom} called {him} home.|In the afternoon, {mom} called, "{hero}, come in, please!"|At
    last {he} walked home with {his} head down.] The house was [dark|very quiet]. {He} [opened the
    door|went in slowly]. ["Hello?" {he} called. ]Then the lights went on. "Surprise!"
    [shouted|cried] everyone.

    There were {color} balloons [and paper stars|and long ribbons|on every chair]. [{friend} was
    there, and {his} cousins, and all {his} friends.|{friend} jumped out from behind the
    sofa.|{friend} wore a silly hat.] There was a {cake} cake with {age} candles. ["We did not
    forget," [said {mom}|{mom} said]. "We wanted to surprise you!"|"I was busy making your party!"
    said {friend}.] <glad>

    [{He} closed {his} eyes, made a wish, and blew out the candles.|They sang, and {he} blew out all
    the candles.] Then {he} opened {his} present. It was {gift}! ["I always wanted this!" <cried
    hero>.|"Thank you, thank you!" <cried hero>.] [They played games and danced.|They ate cake until
    they were full.|They played until it was dark.] "[This is my best birthday|What a wonderful
    birthday]," said {hero}. ["I thought you all forgot me." "We could never forget you," said
    {mom}.|<night>|<learned> {his} friends would never forget {him}.]
    """,
)

BABY = Plot(
    "new baby",
    {
        "hero": CHILDREN,
        "mom": PARENTS,
        "baby": words("baby brother, baby sister"),
        "trick": table(
            "name did",
            """
            a silly face       | puffed out {his} cheeks and crossed {his} eyes
            a funny song       | sang about a cow who wore boots
            a finger puppet    | made the puppet bow and sneeze
            a game of peekaboo | hid behind {his} hands and said boo
            a duck voice       | said quack, quack, quack
            a dance            | wiggled from head to toe
            a story            | told of a bear who lost his hat
            """,
        ),
        "snack": SNACKS,
    },
    """
    <intro> For a long time {he} was the only child in the house. Then a {baby} came home. [The baby
    was small and red.|The baby had no teeth and no hair.|The baby had tiny fingers.|The baby slept
    all day and cried all night.] Everyone came to see the baby. [They brought presents for the
    baby.|"How sweet!" they said.|They all wanted to hold the baby.] [Nobody looked at {hero}.
    |Nobody asked {hero} to play.|]

    "{mom}, will you [read to me|play with me]?" <asked hero>.

    "[Not now, {hero}|Later, {hero}|In a minute]. The baby is [hungry|crying|wet]," [said
    {mom}|{mom} said].

    It was [always the same|the same every day]. {hero} was [jealous|angry|cross]. ["I do not like
    that baby," {he} [said|thought].|"Can we send the baby back?" {he} asked.|"I wish the baby would
    go away," {he} [said|thought].] {He} [went to {his} room and shut the door|hid under the
    table|kicked a block across the floor|sat in the closet with {his} {snack}]. <sad>

    [{mom} came and sat down next to {him}.|{mom} found {him} there.] ["You feel left out," {mom.he}
    said.|"It is hard to be the big one," {mom.he} said.|"I miss our time too," {mom.he} said.]
    ["When you were a baby, I held you just like that," {mom.he} went on. "I love you as much as
    ever.|"My heart did not get cut in two," {mom.he} went on. "It got bigger.|"There is enough love
    for both of you," {mom.he} went on. "Love does not run out.] And a baby needs a big
    {hero.sibling} like you."

    Just then the baby began to cry. {mom} [rocked the baby|sang a song|walked up and down], but it
    did not help. {hero} [came closer|looked into the crib|had an idea]. {He} tried {trick}. {He}
    {trick.did}. The baby stopped crying and looked at {him}. Then the baby [laughed|smiled for the
    very first time|laughed out loud]!

    ["{mom}, the baby likes me!" <cried hero>.|"Look! I made the baby laugh!" <cried hero>.] ["No
    one else could do that," [said {mom}|{mom} said].|"You are a wonderful big {hero.sibling},"
    [said {mom}|{mom} said].] <proud> [That night, {mom} read {hero} two stories, while the baby
    slept.|Every evening after that, {mom} and {hero} had an hour just for them.|From then on,
    {hero} helped with the baby every day.] [<learned> love grows when you share it.|And {hero} was
    not jealous any more.|]
    """,
)

SCHOOL = Plot(
    "first day of school",
    {
        "hero": CHILDREN,
        "friend": CHILDREN,
        "mom": PARENTS,
        "teacher": TEACHERS,
        "color": COLORS,
        "pocket": words(
            """
            a smooth stone, a small shell, a paper heart, a button from {mom}'s coat, a lucky penny,
            a tiny toy mouse
            """
        ),
        "task": table(
            "name how",
            """
            paint a picture        | They painted a house with a green door
            sing a song            | They sang about five little ducks
            build with blocks      | They built a bridge as long as the rug
            count to twenty        | They counted the shoes and then the noses
            write their names      | They wrote big letters on the blackboard
            feed the class hamster | They gave it a leaf, and it filled its cheeks
            listen to a story      | It was about a whale who was afraid of water
            make clay animals      | They made a fat hippo and a thin giraffe
            """,
        ),
    },
    """
    <intro> [Today was|It was] {his} first day of school. {He} had a new {color} [bag|lunch
    box|backpack] and [new shoes|a sharp pencil]. But {he} did not want to go. ["What if nobody
    likes me?" {he} asked.|"What if I get lost?" {he} asked.|"Can I stay home with you?" {he}
    asked.]

    {mom} [knelt down|smiled] and put {pocket} in {his} pocket. "When you miss me, [hold this|touch
    this]," {mom.he} said. "[It is a piece of home|Then you will know that I think of you|It has a
    hug inside]."

    The school was [big|loud|full of children]. {hero} held {mom}'s hand very tight. [A teacher came
    out. "Hello, {hero}. I am {teacher}. We are so happy you are here," {teacher.he} said.|The
    teacher, {teacher}, had a kind face. "Welcome, {hero}," {teacher.he} said.] {mom} [waved|gave
    {him} a kiss] and left. <sad> {He} put {his} hand in {his} pocket and [held|touched]
    {pocket.the}. [It was warm.|It helped a little.|{He} felt a bit better.]

    "Today we will {task}," said {teacher}. [There was an empty chair next to|{hero} sat down by] a
    {friend.kind} [with a wet face|who looked scared too|who did not say a word]. It was {friend}.
    ["Are you scared?" <whispered hero>. {friend} nodded.|"I miss my mom," <whispered friend>.] ["Me
    too," said {hero}. "We can be scared together."|"You can sit with me," said {hero}.|"Here, hold
    this for a while," said {hero}, and gave {friend.him} {pocket.the}.] <glad friend>

    {task.how}. [It was fun!|Everyone laughed.|{hero} and {friend} did it together.] [At noon they
    shared their lunch.|On the playground they ran and climbed.|Then they played tag outside.] [The
    day went by so fast.|Before {he} knew it, the day was over.]

    {mom} was waiting at the gate. "How was it?" {mom.he} asked. ["It was great! I have a friend!"
    <cried hero>.|"Can I go again tomorrow?" <asked hero>.|"I was scared, but only at first," <said
    hero>.] [The next morning {hero} was the first one at the door.|<learned> new things are only
    scary at the start.|<learned> the best way to be brave is to help someone else.|And the next
    day, {he} gave {pocket.the} back to {mom}. "You can keep it," {he} said. "I am big now."]
    """,
)

SICK_PET = Plot(
    "sick pet",
    {
        "hero": CHILDREN,
        "mom": PARENTS,
        "pet": PET_NAMES,
        "sort": PETS,
        "cause": table(
            "name cure",
            """
            had a thorn in one paw   | took out the thorn and put on a white bandage
            ate too much cheese      | gave a spoon of medicine and a pat on the tummy
            had a bad cold           | gave some drops and said to keep warm
            swallowed a small button | gave some medicine, and soon the button came out
            had a sore tooth         | pulled the bad tooth, quick as a wink
            got stung by a bee       | put some cool cream on the sting
            had something in one ear | looked with a little light and took out a seed
            """,
        ),
        "vet": table(
            "name he",
            """
            Doctor Fox  | he
            Doctor Reed | she
            Doctor Hart | she
            Doctor Moon | he
            Doctor Lamb | she
            """,
        ),
    },
    """
    <intro> {He} had a {sort} named {pet}. [Every day they ran and played in the yard.|{pet} waited
    at the door for {him} each day.|{pet} loved to chase {pet.his} tail.|They were best friends.]
    But [one day|one morning|one afternoon] {pet} did not [want to play|get up]. {pet.He} lay in
    {pet.his} {sort.bed} and did not [eat {pet.his} food|touch {pet.his} {sort.food}|lift {pet.his}
    head].

    "What is wrong, {pet}?" <asked hero>. {pet} only [looked at {him} with sad eyes|made a small
    sound]. {hero} ran to {mom}. ["{mom}, {pet} is sick!" {he} cried.|"Come quick! {pet} is not
    well!" {he} cried.] ["We must go to the vet," [said {mom}|{mom} said].|"Let us take {pet.him} to
    the vet," [said {mom}|{mom} said].]

    {hero} [wrapped {pet} in a soft blanket|put {pet} in a box with a pillow] and [held {pet.him}
    all the way|talked softly to {pet.him} in the car]. <scared> ["Will {pet} be all right?" {he}
    asked. "I hope so," said {mom}.|"Please get well," {he} whispered.|]

    {vet}, the vet, was [kind|gentle|very kind]. {vet.He} [looked at|checked] {pet.his} eyes,
    {pet.his} ears, and {pet.his} paws. "[Ah, I see|Now I know what it is]," {vet.he} said. "{pet}
    {cause}." {hero} held {pet}'s paw. The vet {cause.cure}. {pet} [was very brave|did not even
    cry|closed {pet.his} eyes]. "[Now {pet.he} needs rest and love|Let {pet.him} sleep, and be
    gentle]," {vet.he} said.

    At home, {hero} [sat by {pet} all night|brought {pet} fresh water|read {pet} a story|made a soft
    bed for {pet}]. [{He} did not even want to watch TV.|{He} sang a quiet song.|{He} slept on the
    floor next to {pet.him}.] The next [day|morning], {hero} woke up because something wet touched
    {his} [nose|cheek|hand]. It was {pet}! {pet.He} {sort.sound} and [wanted to play|jumped on the
    bed].

    ["You are well again!" <cried hero>.|"{mom}, look! {pet} is all better!" <cried hero>.] <glad>
    ["You took good care of {pet.him}," [said {mom}|{mom} said].|"Love is good medicine," [said
    {mom}|{mom} said].] [<learned> we must take care of those we love.|They played in the sun all
    day long.|"When I grow up, I want to be a vet," <said hero>.]
    """,
)

HELP_ANIMAL = Plot(
    "helping a hurt animal",
    {
        "hero": CHILDREN,
        "mom": FAMILY,
        "animal": table(
            "name where hurt food home leave",
            """
            bird | under a tree | had a hurt wing | seeds and crumbs | a shoe box with soft grass |
                spread its wings and flew up into the sky
            duckling | in the tall grass | had lost its mother | bread and peas |
                a basket with a towel | ran to its mother, who was calling by the pond
            hedgehog | by the side of the road | had a cut on its foot | slices of apple |
                a box full of leaves | walked off into the bushes
            rabbit | near the fence | had a hurt leg | carrots and clover | a crate with straw |
                hopped away into the field
            squirrel | on the ground | had fallen out of its nest | nuts |
                a box with an old sweater | climbed up the tallest tree
            owl | behind the shed | had a hurt wing | bits of meat | a dark box with a branch |
                flew off without a sound
            fawn | at the edge of the wood | had a hurt leg | warm milk | a bed of hay in the barn |
                ran to its mother at the edge of the wood
            turtle | in the middle of the road | had a crack in its shell | lettuce |
                a tub with a flat stone | slid into the pond
            """,
        ),
    },
    """
    <intro> <oneday> {he} [was walking home|went for a walk|was playing outside] with {mom}.
    [<sunny>|] {hero} heard a [soft|small|sad] sound. {Animal.where} {he} saw a little {animal}. It
    {animal.hurt}. ["{mom}, look!" <cried hero>.|"Oh, you poor thing," said {hero}.] It [shook with
    fear|could not get away|looked at {him} with big dark eyes].

    ["Can we help it?" <asked hero>. "Yes, but we must be very gentle," [said {mom}|{mom} said].|"We
    cannot leave it here," <said hero>. "You are right," [said {mom}|{mom} said]. "Move slowly, so
    that you do not scare it." |"What can we do, {mom}?" <asked hero>. "We can take it home until it
    is well," [said {mom}|{mom} said].] {mom} took off {mom.his} [scarf|coat] and they [picked it
    up|carried it home] with great care.

    At home they gave it {animal.home} to rest in. {hero} gave it water and {animal.food}. [At first
    it did not want to eat.|It ate a little.|It hid in the corner.] [{hero} spoke to it in a soft
    voice.|"Do not be afraid," {he} said. "You are safe."|{He} sat still for a long time, so that it
    would not be afraid.] Day after day, {he} [took care of it|fed it|looked after it]. [{He} gave
    it the name Hope.|{He} named it Button.|{He} called it Little One.|] And day by day, the
    {animal} got [stronger|better].

    [After two weeks|At last|One morning], {mom} said, "[It is well again.|It is strong now.] [It is
    time to let it go|It needs to go home]." {hero} [did not want to|had tears in {his} eyes|was
    quiet]. ["Can it stay with me?" {he} asked. "I love it."|"But I will miss it," {he} said.|"It is
    my friend," {he} said.]

    ["It was not made for a box," [said {mom}|{mom} said]. "If you love it, let it be free."|"It
    will be happy where it belongs," [said {mom}|{mom} said].] So they carried it back to the place
    where they found it. {hero} [opened {his} hands|set it down|put it on the ground]. For a moment
    it [looked at {him}|did not move]. Then it {animal.leave}.

    ["Goodbye, little friend!" <cried hero>.|{hero} waved for a long time.] {He} was [sad and happy
    at the same time|a little sad, but mostly glad]. [Every time {he} walked past that place, {he}
    [looked|listened] for it. And once, {he} was sure, it looked back.|<learned> to love means to
    let go sometimes.|<proud> {He} had helped someone smaller than {himself}.|"You did a good
    thing," [said {mom}|{mom} said], and they went home hand in hand.]
    """,
)

COIN = Plot(
    "finding what someone lost",
    {
        "hero": CHILDREN,
        "mom": FAMILY,
        "owner": NEIGHBORS,
        "thing": table(
            "name noun want why",
            """
            a brown wallet | wallet | a new toy truck | All my money for the month was in it
            a gold ring | ring | a shiny treasure | It was my mother's ring
            a silver watch | watch | a watch like the big kids | My father gave it to me
            a purse full of coins | purse | a mountain of candy |
                It was the money for my train ticket
            a key with a blue ribbon | key | a key to a secret box | I could not get into my house
            a gold locket | locket | a pretty necklace | There is a picture of my family inside
            a fine glass marble | marble | the best marble in school |
                I have had it since I was your age
            a fine silver pen | pen | a pen like that | My best friend gave it to me
            """,
        ),
        "treat": TREATS,
    },
    """
    <intro> <oneday> {he} was [on {his} way to the shop|walking to school|playing near the bus stop]
    when {he} saw something in the [grass|gutter|leaves]. It was {thing}! ["Wow!" <said hero>. "I am
    so lucky!"|{hero} picked it up. [Nobody was looking.|There was no one around.]|"Finders
    keepers," thought {hero}.] {He} put it in {his} pocket. {He} had always wanted {thing.want}.

    But [all day long|that evening|at dinner], {he} [could not stop thinking about it|felt
    strange|could not eat]. [It felt heavy in {his} pocket.|{His} tummy felt like a knot.|"Somebody
    must be looking for it," {he} thought.] ["What is the matter?" <asked mom>.|"You are so quiet,"
    [said {mom}|{mom} said].] {hero} [showed {mom.him} the {thing.noun}|put the {thing.noun} on the
    table]. "I found it. [May I keep it|Is it mine now]?" {he} asked.

    ["What do you think?" <asked mom>.|"How would you feel if you had lost it?" <asked mom>.|{mom}
    said nothing and only looked at {him}.] {hero} thought hard. "[It belongs to someone|Someone is
    sad right now]," {he} said at last. "[I have to give it back|I want to find who lost it]."

    [The next day they went from door to door.|They made a sign and put it up on a tree.|They asked
    [all the neighbors|at every shop].] ["Did you lose something?" {hero} asked at each house. "No,"
    said one. "Not me," said another.|Nobody knew about it. {hero} almost gave up.|] Then they met
    {owner}, who lived at the end of the street. {owner} looked [worried|sad|tired]. ["I have lost
    my {thing.noun}," {owner.he} said. "I have looked everywhere."|"I have been looking for my
    {thing.noun} for days," {owner.he} said.]

    "Is this it?" <asked hero>, and held it out. {owner} [could not believe {owner.his} eyes|had
    tears of joy in {owner.his} eyes]. ["Oh, thank you! {thing.why}," {owner.he} said.|"You dear
    child! {thing.why}," {owner.he} said.] ["You are an honest {kind}," {owner.he} added.|] [{owner}
    wanted to give {him} a coin, but {hero} shook {his} head.|{owner} gave {him} {treat}.|{owner}
    invited them in for {treat}.] <glad>

    [{hero}'s pocket was empty, but {his} heart was full.|"That feels better than keeping it," {he}
    told {mom}.|"I am so proud of you," [said {mom}|{mom} said].] [<learned> it feels good to be
    honest.|<learned> what you find still belongs to someone.|After that, {owner} and {hero} were
    good friends.]
    """,
)

TOOTH = Plot(
    "loose tooth",
    {
        "hero": CHILDREN,
        "friend": CHILDREN,
        "mom": PARENTS,
        "food": words(
            """
            an apple, a carrot, a crust of bread, a piece of corn, a hard cookie, a pear
            """
        ),
        "left": words(
            """
            a shiny coin, a silver coin and a tiny note, a new toothbrush and a coin, two bright
            coins, a coin wrapped in gold paper
            """
        ),
    },
    """
    <intro> {He} had a loose tooth. [It moved back and forth.|{He} could push it with {his}
    tongue.|Wiggle, wiggle, went the tooth.] {His} friend {friend} had lost [two teeth|a tooth]
    already. ["When will mine fall out?" <asked hero>.|"I want a gap like yours," <said hero>.]
    ["Soon," said {friend}.|"You have to wait," said {friend}.|"Mine came out in my sleep," said
    {friend}.]

    [{hero} could not wait, but {he} was a little afraid.|But {hero} was worried too.] ["Will it
    hurt?" {he} asked {mom}.|"Will there be blood?" {he} asked {mom}.] ["Only a little, and only for
    a second," [said {mom}|{mom} said].|"You will hardly feel it," [said {mom}|{mom} said]. "A big
    tooth is coming to take its place."]

    <oneday> {hero} bit into {food}. [Crack!|Pop!|Crunch!] Something felt [funny|strange]. {He} put
    {his} finger in {his} mouth. The tooth was gone! ["My tooth! Where is my tooth?" <cried
    hero>.|"It is out! But where is it?" <cried hero>.] It was not [on the plate|in {his} hand|on
    the table]. [{He} looked in {his} lap.|They looked on the floor.|{friend} crawled under the
    table.] <sad> "[Now the tooth fairy will not come|Maybe I swallowed it]," {he} said.

    "Wait!" said {friend}. "[What is that small white thing?|I see something shine!]" There it was,
    [still stuck in the food|next to the leg of the chair|inside {his} sleeve|between two crumbs]!
    [They all laughed.|"Hooray!" they cried.|<glad>] {hero} [washed it|held it up to the light].
    ["It is so small," {he} said.|It was as white as a pearl.]

    That night, {he} put it under {his} pillow. [{He} tried to stay awake, but {his} eyes
    closed.|{He} wanted to see the fairy, but soon {he} was asleep.|{mom} kissed {him} good night.]
    In the morning the tooth was gone, and there was {left}!

    ["She came! She came!" <cried hero>.|{hero} ran to show {mom}.|{hero} ran to {friend}'s house in
    {his} pajamas.] {He} smiled, and everyone could see the [hole|gap]. <proud> ["You are getting
    big," [said {mom}|{mom} said].|"Now we are the same," said {friend}.|{friend} laughed, and they
    both whistled through their gaps.] [Then {he} felt another tooth. It was loose too!|<learned>
    growing up is not so scary.|And soon there was a tiny new tooth in its place.]
    """,
)

NEW_FOOD = Plot(
    "trying new food",
    {
        "hero": CHILDREN,
        "mom": PARENTS + GRANDPARENTS,
        "food": table(
            "name looks good",
            """
            broccoli     | It looks like little trees       | It tasted a little like nuts
            peas         | They look like green marbles     | They tasted sweet
            spinach      | It looks like wet leaves         | It tasted soft and warm
            pumpkin soup | It looks like orange paint       | It tasted sweet and creamy
            mushrooms    | They look like tiny umbrellas    | They tasted like the forest
            cauliflower  | It looks like a cloud on a stick | It tasted warm and buttery
            beets        | They look like purple stones     | They were as sweet as fruit
            beans        | They look like fat green worms   | They were crisp and fresh
            tomatoes     | They look like big red eyes      | They tasted like the sun
            fish         | It is looking at me              | It was mild and salty
            """,
        ),
        "dinner": DINNERS,
        "as": words(
            """
            a giant eating a forest, a brave knight, a hungry dinosaur, an explorer on a strange
            island, a rabbit, a space captain
            """
        ),
    },
    """
    <intro> {He} liked to eat {dinner}, but nothing else. [{He} ate it on Monday, and {he} ate it on
    Sunday.|{He} wanted it every single day.|{He} would not even look at other food.] [One day|One
    evening|At lunch one day|For dinner one night], {mom} put {food} on {his} plate.

    ["What is that?" <asked hero>. "{food.looks}!"|"I do not eat that," <said hero>.
    "{food.looks}."|"No, take it away!" <cried hero>. "{food.looks}."|{hero} pushed the plate away.
    "{food.looks}," {he} said.]

    ["Just try one bite," [said {mom}|{mom} said].|"How do you know, if you have never tried?"
    <asked mom>.|"One little bite will not bite you back," [said {mom}|{mom} said].] {hero} closed
    {his} mouth and [shook {his} head|folded {his} arms]. [The food got cold.|The clock went tick,
    tock.|The dog looked up and hoped.] {mom} did not get angry. ["I will tell you a secret,"
    {mom.he} said. "When I was small, I hid mine in a flower pot."|"Your tongue may have a
    surprise," {mom.he} said.|{mom.He} took a big bite. "Mmm," {mom.he} said.]

    {hero} laughed. Then {he} had an idea. {He} played that {he} was {as}. [{He} picked up {his}
    fork|{He} closed {his} eyes|{He} held {his} nose] and took a very [small|tiny] bite. {He}
    chewed. {He} waited. [{mom} waited too.|It was very quiet.]

    ["Hmm," {he} said.|"Oh!" {he} said.|{He} opened one eye.] This was not [bad|yucky] at all!
    {food.good}. ["This is good!" <cried hero>.|"Can I have some more?" <asked hero>.|"Yum!" <cried
    hero>.] {mom} [laughed|smiled|clapped {mom.his} hands]. [{hero} ate everything up.|Soon the
    plate was empty.|{hero} even licked the plate.]

    [After that, {hero} tried something new every week.|From then on, {he} always took one bite
    before {he} said no.|"What else have I never tried?" <asked hero>.] [Not everything was good,
    but many things were.|<learned> you can't know if you like a thing until you try it.|<learned>
    new things can be a nice surprise.|]
    """,
)

MUSIC = Plot(
    "learning music",
    {
        "hero": CHILDREN,
        "friend": CHILDREN,
        "mom": GRANDPARENTS,
        "thing": table(
            "name sound bad",
            """
            drum      | boom, boom, boom | like a box falling down the stairs
            flute     | toot, toot       | like a kettle
            violin    | screech          | like a cat with a sore tail
            xylophone | plink, plonk     | like a bag of spoons
            trumpet   | honk             | like an angry goose
            guitar    | twang            | like a loose wire
            whistle   | tweet            | like a hundred birds at once
            """,
        ),
        "show": words(
            """
            the school show, the summer fair, {mom}'s birthday, the town party, the spring concert
            """
        ),
    },
    """
    <intro> {His} {mom.kin} gave {him} an old {thing}. ["It was mine when I was your age," [said
    {mom}|{mom} said].|"It has waited a long time for you," [said {mom}|{mom} said].] {hero} wanted
    to play right away. {Thing.sound}! It sounded {thing.bad}. [The dog ran out of the room.|The
    baby began to cry.|The neighbors closed their windows.|A bird fell silent.]

    {hero}'s friend {friend} [put {friend.his} hands over {friend.his} ears|laughed]. ["That is
    terrible!" {friend.he} said.|"Please stop!" {friend.he} said.|"Is the {thing} broken?"
    {friend.he} asked.] <sad> ["I will never be any good," {he} said, and {he} put the {thing} under
    the bed.|{He} put the {thing} away and did not look at it for a week.]

    [{mom} came to visit.|One evening, {mom} sat down on the edge of the bed.] ["Do you know how I
    learned?" <asked mom>. "One note at a time."|"Nobody is good at first," [said {mom}|{mom} said].
    "Let us play just one note today."] So {hero} played one note. Then {he} played it again. [The
    next day {he} played two.|The day after that, {he} learned another one.|In a week {he} knew
    three notes.] [It was slow, and sometimes {he} wanted to stop.|{He} practiced every day after
    school.|Sometimes {his} fingers hurt, but {he} went on.]

    [Little by little, the noise turned into a song.|After many weeks, it began to sound like
    music.] [The dog stayed in the room.|The baby fell asleep to it.|The neighbors opened their
    windows.] ["Was that you?" <asked friend>. "It was beautiful!"|Even {friend} came to listen.
    "You got so good!" {friend.he} said.] ["I am sorry I laughed," {friend.he} added.|"Can you teach
    me?" {friend.he} asked.|]

    Then came {show}. {hero} stood in front of all the people. <scared> {He} looked for {mom}, and
    {mom} [nodded|winked|smiled]. [{hero} took a deep breath and began to play.|{hero} closed {his}
    eyes and played.] [When {he} was done, it was very quiet. Then everyone clapped.|Everybody
    clapped and stamped their feet.] <proud>

    [<learned> you get better if you practice.|"How did you learn that?" people asked. "One note at
    a time," said {hero}.|{mom} wiped away a tear. "That was our song," {mom.he} said.|<learned>
    every song begins with one note.]
    """,
)

ART = Plot(
    "drawing contest",
    {
        "hero": CHILDREN,
        "friend": CHILDREN,
        "teacher": TEACHERS,
        "spill": words(
            """
            a cup of water, a jar of blue paint, a glass of juice, a bottle of ink, a pot of green
            paint
            """
        ),
        "turn": table(
            "name from",
            """
            a great storm at sea       | a ship
            a dark forest full of eyes | a little house
            a dragon made of clouds    | a castle
            a giant whale              | a boat
            a deep green jungle        | a tiger
            the sky at night           | a row of houses
            a magic lake               | a swan
            """,
        ),
        "prize": words(
            """
            a box of forty crayons, a gold star, a big blue ribbon, a set of brushes, a real easel
            """
        ),
    },
    """
    <intro> {He} loved to [draw|paint]. <oneday> {teacher} said, "We will have [an art show|a
    contest]. The best picture wins {prize}!" [All the children began to work.|Everyone was
    excited.] {hero} painted {turn.from}. {He} worked [all morning|for three days|very hard]. [Every
    line was just right.|It was the best thing {he} had ever made.]

    {hero}'s friend {friend} sat at the same table. [{friend} reached for a brush|{friend} stood up
    too fast|{friend} sneezed a big sneeze], and {spill} fell over. It ran all over {hero}'s
    picture! ["Oh no!" <cried friend>. "It was an accident!"|"I am so sorry!" <cried friend>. "I did
    not mean to!"]

    {hero} was [so angry|very angry] that {his} face got red. ["You spoiled everything!" {he}
    shouted.|"Look what you did!" {he} shouted.|{He} wanted to shout, or to spill something on
    {friend}'s picture too.] {friend} began to cry. [{hero} looked at {friend}, and then {he} looked
    at the wet paper.|{hero} counted to ten, as {teacher} had taught them.] {He} [breathed in and
    out|took a deep breath]. {friend} was still {his} friend. "[I know you did not do it on
    purpose|It was only an accident|You are worth more than a picture]," {he} said [at
    last|quietly].

    {He} wanted to throw the paper away. But then {he} [turned it around|looked closer|saw
    something]. The big stain looked like {turn}! ["Wait," said {hero}. "It is not spoiled. It is
    different!"|"Quick, give me a brush!" said {hero}.] ["Can I help?" asked {friend}. "Yes, you
    paint this side," said {hero}.|{hero} and {friend} worked on it together.] They added [stars and
    shadows|dots and lines|white and gold|a bit of silver]. [It was even better than before.|It was
    strange and beautiful.]

    [All the families came to see the show.|The next day, the pictures hung on the wall.] [Many
    people stopped in front of it.|"How did you think of that?" people asked.] And the prize went to
    {hero} and {friend}! ["It was an accident," said {friend}. "A lucky one," said {hero}.|They
    shared {prize.the}.|They jumped up and down together.] [<learned> a mistake can turn into
    something new.|<learned> a friend is worth more than a prize.|<learned> it is better to forgive
    than to stay angry.]
    """,
)

LETTER = Plot(
    "far from grandma",
    {
        "hero": CHILDREN,
        "mom": PARENTS,
        "old": GRANDPARENTS,
        "send": table(
            "name back",
            """
            a drawing of the two of them | had put it in a gold frame
            a pressed leaf               | kept it in a big book
            a paper flower               | had put it on the window sill
            a bracelet made of string    | wore it every day
            a funny photo                | laughed each time {old.he} saw it
            a poem about the moon        | could say it by heart
            a map of their street        | had hung it next to the door
            """,
        ),
        "do": words(
            """
            bake bread, tell stories by the fire, feed the chickens, look at the stars, pick
            berries, go fishing, play cards
            """
        ),
    },
    """
    <intro> {His} {old.kin} lived far away. [It took a whole day to get there by train.|There was a
    wide sea between them.|There were mountains in between.] {hero} missed {old} very much. In the
    summer they used to {do}. Now it was [winter|autumn|raining], and summer was a long time away.

    ["When can we visit {old}?" <asked hero>.|"I want to see {old} today," <said hero>.|"I miss
    {old}," <said hero>.] ["Not until summer," [said {mom}|{mom} said].|"It is too far, my dear,"
    [said {mom}|{mom} said].] <sad>

    ["But you can send a letter," [said {mom}|{mom} said].|"Why do you not write to {old.him}?"
    <asked mom>.|{mom} gave {him} paper and a pen. "A letter can travel for you," {mom.he} said.]
    {hero} [sat down at the table|got to work]. {He} could not write [so many words|very well] yet,
    so {mom} helped. "[Dear {old}, I miss you.|Dear {old}, how are you?] [I lost a tooth.|It is cold
    here.|I can ride a bike now.|I am taller than the table.] [I love you to the moon and back.|Do
    you think of me?|Please come soon.] Your {hero}." Then {he} put in {send}.

    They walked to the [red|blue|yellow] mail box. {hero} kissed the letter and dropped it in. ["How
    long will it take?" {he} asked. "A few days," said {mom}.|"Fly, letter, fly!" {he} said.] Then
    {he} waited. [Monday came, and Tuesday, and Wednesday.|Every day {he} looked for the
    mailman.|Every day {he} ran to the door.] [No letter came.|There were only bills and
    newspapers.]

    At last [the mailman rang the bell|there was a knock on the door]. [There was a letter with
    {hero}'s name on it!|"A letter for {hero}!" said the mailman.] {mom} read it aloud. {old} wrote
    about [the snow on the roof|the cat and her kittens|the apple tree] and about {send.the}.
    {old.He} {send.back}. <glad>

    ["Now I feel close to {old.him}," <said hero>.|"It is like a hug in the mail," <said hero>.]
    [From then on, they wrote to each other every week.|{hero} kept the letter under {his}
    pillow.|{hero} got out a new sheet of paper right away.] [And when summer came, {old} was at the
    station, with open arms.|<learned> people you love are never really far away.|]
    """,
)

PEOPLE_PLOTS = (
    NEW_FRIEND,
    BIRTHDAY,
    BABY,
    SCHOOL,
    SICK_PET,
    HELP_ANIMAL,
    COIN,
    TOOTH,
    NEW_FOOD,
    MUSIC,
    ART,
    LETTER,
)
