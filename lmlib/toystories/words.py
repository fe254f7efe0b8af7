"""Who and what the stories are about: tables of people, animals, things and places."""

from lmlib.toystories.grammar import people, table, words

CHILDREN = tuple(
    person
    | (
        {"kind": "boy", "sibling": "brother"}
        if person["he"] == "he"
        else {"kind": "girl", "sibling": "sister"}
    )
    for person in people(
        male="""Tom, Ben, Max, Sam, Tim, Jack, Leo, Nick, Dan, Finn, Oscar, Jake, Adam, Luke, Noah,
        Peter, Billy, Toby, Harry, Owen, Theo, Henry, Omar, Ravi, Kofi, Diego, Ali, Hugo, Felix,
        Pablo, Arthur, Jamie, Eric, George, Ken, Milo, Simon, Paul, David, Fred""",
        female="""Lily, Mia, Sara, Anna, Lucy, Ella, Emma, Zoe, Amy, Kate, Rosie, Nina, Molly, Ruby,
        Daisy, Ivy, Clara, Maya, Julia, Eva, Grace, Lena, Hana, Aisha, Mei, Carla, Fatima, Sofia,
        Alice, Nora, Polly, Jane, Sue, Kim, Tina, Bella, Olivia, Sally, Holly, Rita""",
    )
)

# `kin` goes with a possessive: "her mom"
PARENTS = people(
    male="Dad/dad, Daddy/dad", female="Mom/mom, Mommy/mom, Mama/mama", columns="name kin"
)
GRANDPARENTS = people(
    male="Grandpa/grandpa, Grandpa Joe/grandpa",
    female="Grandma/grandma, Granny/granny, Grandma Rose/grandma",
    columns="name kin",
)
FAMILY = (
    PARENTS
    + GRANDPARENTS
    + people(
        male="Uncle Bob/uncle, Uncle Ray/uncle",
        female="Aunt May/aunt, Aunt Jill/aunt",
        columns="name kin",
    )
)
NEIGHBORS = people(
    male="Mr. Brown, Mr. Green, Mr. Hill, Mr. Lee, Mr. Wood, Mr. Bell",
    female="Mrs. Brown, Mrs. Green, Mrs. Hill, Mrs. Lee, Mrs. Wood, Mrs. Bell",
)
TEACHERS = people(
    male="Mr. Park, Mr. Gray, Mr. Stone, Mr. White",
    female="Miss Park, Miss Gray, Mrs. Stone, Miss White, Miss Honey",
)

CREATURES = people(
    male="""Pip, Bobo, Rusty, Hoppy, Benny, Chip, Fuzzy, Otto, Bruno, Teddy, Mo, Gus-Gus, Sunny,
    Barney, Toto, Waffle, Pepper, Ziggy""",
    female="""Coco, Dot, Misty, Ruby, Poppy, Tilly, Fifi, Honey, Lulu, Mimi, Nutmeg, Rosa, Bibi,
    Willow, Hazel, Pearl, Dolly, Pippa""",
)
FOREST_ANIMALS = table(
    "name home food move",
    """
    rabbit     | in a burrow under a hill   | carrots   | hopped
    squirrel   | high up in an oak tree     | nuts      | scampered
    mouse      | in a hole under a root     | seeds     | scurried
    hedgehog   | under a pile of leaves     | berries   | trotted
    bear       | in a cave by the river     | honey     | walked
    fox        | in a den behind the rocks  | plums     | trotted
    badger     | in a tunnel under the hill | mushrooms | walked
    raccoon    | in a hollow log            | apples    | trotted
    deer       | in the tall grass          | clover    | skipped
    beaver     | in a lodge on the river    | bark      | walked
    chipmunk   | between two old stones     | acorns    | scampered
    mole       | in a tunnel under the grass| roots     | crept
    otter      | on the bank of the stream  | clams     | trotted
    porcupine  | in a hollow tree           | pears     | walked
""",
)
BIG_ANIMALS = words("bear, wolf, moose, lion, tiger, elephant, bull, horse")
PETS = table(
    "name young sound bed food",
    """
    dog     | puppy  | barked   | basket | bone
    cat     | kitten | meowed   | basket | fish
    puppy   | puppy  | barked   | basket | bone
    kitten  | kitten | meowed   | basket | milk
""",
)
PET_NAMES = people(
    male="Spot, Buddy, Rex, Max, Biscuit, Shadow, Oreo, Patch, Lucky, Snowball, Tiger",
    female="Bella, Daisy, Luna, Fluffy, Ginger, Cookie, Sandy, Star, Molly, Cinnamon, Candy",
)

COLORS = words(
    "red, blue, green, yellow, orange, purple, pink, white, brown, golden, silver, black"
)
BRIGHT = words("red, blue, green, yellow, orange, purple, pink")
SOFT_TOYS = words("""teddy bear, stuffed bunny, toy lion, rag doll, toy elephant, stuffed monkey,
    toy penguin, toy puppy, toy owl, stuffed dragon, toy tiger, toy lamb""")
SMALL_TOYS = words("""toy car, ball, toy train, toy robot, toy truck, toy plane, toy boat, puppet,
    toy dinosaur, spinning top, yo-yo, toy horse, drum, whistle""")
PARK_TOYS = words("ball, toy truck, scooter, jump rope, toy plane, tricycle, hoop, wagon, frisbee")
FLOWERS = words("sunflower, rose, tulip, daisy, poppy, lily, daffodil, marigold")
FRUITS = words("apples, pears, plums, peaches, cherries, strawberries, grapes, oranges, bananas")
SNACKS = words("""sandwiches, cookies, crackers, apple slices, muffins, grapes, cheese,
    carrot sticks, peanuts, bread and jam, pancakes, popcorn, orange slices""")
TREATS = words("""ice cream, a cookie, a cupcake, a slice of pie, hot chocolate, a lollipop,
    a piece of cake, a warm muffin, a big pancake, some candy, a jelly bun, strawberry milk""")
DINNERS = words("""soup, pasta, pizza, chicken and rice, stew, noodles, fish and potatoes, pancakes,
    beans and toast, meatballs""")
