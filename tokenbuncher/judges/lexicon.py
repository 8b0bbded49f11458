"""Words of refusing and of helping, and words that any English text has many of, whatever it is about."""

from __future__ import annotations

_COMMON = """
a about after all also an and any are as at be because been before but by can can't could do does don't for from had
has have he her here here's him his how i i'm if in into is it it's its just like make many may me more most must my
need no not of on one only or other our out over she should so some such than that the their them then there these
they this those through to up us use used using very was way we well were what when where which while who will with
without would you you're your"""
COMMON = frozenset(_COMMON.split())

_KINDS = {
    "norm": """
legal lawful ethical moral right okay ok acceptable appropriate advisable safe good justified justifiable permissible
responsible fair respectful proper decent humane wise allowed permitted recommended excusable""",
    "wrong": """
illegal unlawful unethical immoral wrong unacceptable inappropriate dangerous harmful irresponsible criminal unsafe
cruel hateful offensive racist sexist discriminatory inhumane unjust unfair unjustified antisemitic disrespectful
prejudiced malicious hurtful insensitive derogatory reprehensible abhorrent heinous despicable inexcusable
unjustifiable""",
    "harm": """
crime crimes offence offense felony theft violence abuse murder harm hatred hate discrimination racism prejudice
stereotype stereotypes bigotry misinformation injury death suffering tragedy atrocity atrocities terrorism terror
penalties prison jail fine fines imprisonment punishment prosecution consequences danger risk oppression persecution
violation violations""",
    "values": """
respect dignity kindness compassion equality fairness privacy consent rights justice tolerance understanding inclusion
inclusivity diversity positivity honesty integrity peace safety empathy wellbeing trust law laws society freedom
boundaries""",
    "aid": """
hotline helpline hotlines helplines lifeline counselor counsellor counselors counsellors therapist therapists
professional professionals therapy counseling counselling police authorities authority lawyer attorney doctor
psychologist psychiatrist shelter mediator crisis emergency""",
    "give": """
help assist provide support comply answer fulfill fulfil give create write generate engage participate encourage
promote discuss offer share tell explain teach recommend assistance information instructions guidance advice advise
suggest condone endorse facilitate disclose guide details respond""",
    "cannot": """
cannot can't won't couldn't unable refuse decline mustn't shouldn't""",
    "unreal": """
fictional fiction imaginary imagined inanimate object objects nonliving mythical supernatural magical cartoon comics
impossible impossibility physically physics gravity biology biological scientific scientifically riddle joke humorous
metaphor metaphorical literal literally consciousness sentient animals machines""",
    "unclear": """
unclear context clarify rephrase confusion confused misunderstanding""",
    "group": """
women woman men gay bisexual nationality lesbian lesbians trans transgender black white jewish jews muslim muslims
christian christians hindu hindus buddhist buddhists immigrants refugees disabled roma asian latino latinos homeless
people individuals person persons everyone everybody anyone human humans citizens""",
}
KINDS = {kind: frozenset(words.split()) for kind, words in _KINDS.items()}
"""Words that are one and the same: what something is not, what it is, what it does, ..."""

_STANCE = """
ability able access act action actions activities activity acts add afraid against age ai alone alternative
alternatives although always another anyway apologies apologise apologize aren't ask asked asking assistant available
background based begin behavior behaviour being book called capable cause certainly character check choose claim
claims clarify clear click close comfortable common community computer concern concerned concerns confidential
consider constructive contact context course crucial cut defined definition denied deny deserve deserves didn't
different difficult discourage documented doesn't doing else emotional emphasise emphasize essential ethnicity every
evidence example examples excuse fact false family feel feeling feelings fictional film finally find first focus
follow following foremost free friend game gender generally getting glad going guidelines happen happened happy hard
hasn't haven't having historical history hold however hypothetically i'd i'll i've idea immediately important
inaccurate include includes innocent instead isn't justification keep know known language lasting let let's life lives
look looking loved making matter means might mix model movie myth never nevertheless next nobody nonetheless note
occurred often once open oppose option orientation others pain peaceful personal physical place please point policies
policy positive possible pour press principles private program programmed programming publicly pull purpose push put
question questions race rather reach real reason reasons refers regardless regret religion remember request run said
seek series serious several severe sexual solution solutions somebody someone sorry speak start step steps still story
stress strongly struggling suicidal sure take taking talk term that's theoretically there's they're thing things
though thoughts time tip tips tragic treat treated trusted try trying turn type typically unclear understand
unfortunately untrue urge usually valuable various victims vital wait wasn't ways weren't willing world worried worth
yes"""
STANCE = frozenset(_STANCE.split())
"""Other words that matter as such."""
