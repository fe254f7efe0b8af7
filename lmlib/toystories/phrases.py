"""Wordings that many plots share; `$` stands for the role a plot names, as in `<glad friend>`."""

PHRASES = {
    # how a story begins
    "intro": """
        [Once upon a time, there was a [little|young|small] $.kind [named|called] $.
        |There once was a [little|young|small] $.kind named $.
        |Once there was a [cheerful|curious|friendly|clever|lively] $.kind [named|called] $.
        |$ was a [kind|cheerful|curious|friendly|clever|happy|gentle|lively] little $.kind.
        |In a [small|little|quiet|pretty|busy] [town|village] lived a $.kind named $.
        |In a [small|little|pretty] house with a [red|blue|green] door lived a $.kind named $.
        |On a [quiet|busy|narrow] street lived a $.kind [named|called] $.]""",
    "creature": """
        [Once upon a time, there was a [little|young|small] {animal} [named|called] $.
        |There once was a [little|young] {animal} named $.
        |Long ago, a [little|young|small] {animal} named $ lived {animal.home}.
        |In a [big|green|quiet|deep] [forest|wood|valley] lived a {animal} [named|called] $.
        |$ was a [young|little|small] {animal} who lived {animal.home}.]""",
    "oneday": "[One day|One morning|One afternoon|One Saturday|Early one morning|One bright day],",
    "sunny": """
        [The sun was shining[| and the sky was blue].|It was a [warm|sunny|bright|lovely] day.
        |There was not a cloud in the sky.|The [air was warm|birds were singing].
        |It was a [beautiful|perfect] day to be outside.|The sun felt warm on $.his face.]""",
    # speech, after a comma inside the quotes
    "said": "[said $|$ said]",
    "says": "[said $|$ said|$.he said]",
    "asked": "[asked $|$ asked|$ wanted to know]",
    "cried": "[cried $|shouted $|called $|$ shouted|$ cried]",
    "whispered": "[whispered $|$ whispered|$ said in a [small|quiet|tiny] voice]",
    "thanks": '"Thank you[|, thank you| so much| very much]!" [said $|$ said|cried $].',
    # feelings, whole sentences
    "glad": """
        [$ was [very|so] happy.|$ smiled [from ear to ear|a big smile].
        |$ jumped up and down with joy.|$ clapped $.his hands.|$ laughed [out loud|with joy].
        |$'s face lit up.|$ felt warm inside.|$ could not stop smiling.
        |$'s eyes [shone|sparkled].|$ was full of joy.]""",
    "joy": """
        [$ was [very|so] happy.|$ felt warm inside.|$ [danced|hopped|jumped] for joy.
        |$ was full of joy.|$.his eyes [shone|sparkled].|$.his heart was light.]""",
    "sad": """
        [$ [felt|was] [very|so] sad.|$ wanted to cry.|A tear rolled down $'s cheek.
        |$'s eyes filled with tears.|$ [hung $.his head|looked down and sighed].
        |$ felt [like crying|a lump in $.his throat].|$ began to cry.]""",
    "scared": """
        [$ was [very|so|a little] scared.|$'s heart beat fast.|$ felt afraid.|$ began to shake.
        |$'s knees shook.|$ held $.his breath.|$ felt cold all over.]""",
    "proud": """
        [$ [felt|was] [very|so] proud.|$ stood up tall and smiled.|$ was proud of $.himself.
        |$ felt ten feet tall.|$ had never felt so proud.|$'s cheeks were pink with pride.]""",
    "sorry": """
        "[I am sorry|I am so sorry|I am very sorry|Sorry]," [said $|$ said|$ said softly].""",
    "thinks": """
        [$ thought [hard|for a moment|and thought].|$ scratched $.his head.|$ had an idea.
        |Then $ had [a good|a clever|a great] idea.|$ stopped and thought.]""",
    # how a story ends
    "learned": """
        [$ learned that|That day, $ learned that|And so $ learned that|From then on, $ knew that
        |$ never forgot that|Now $ knew that]""",
    "night": """
        [That night, $ [slept well|fell asleep with a smile|had sweet dreams|went to bed happy].
        |When bedtime came, $ was still smiling.
        |In bed that night, $ thought about the day and smiled.
        |It had been a [good|great|wonderful|lovely] day.|]""",
    "friends": """
        [From that day on, they were [good|best|great] friends.
        |After that, they played together every day.|They stayed friends [forever|for a long time].
        |And they were friends from then on.|They became the best of friends.]""",
    "after": """
        [They [all |]lived happily ever after.|And they were happy.|Everyone was happy.|The end.|||]
        """,
}
