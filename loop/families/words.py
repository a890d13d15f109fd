"""Short, common, concrete words for the sequence families.

None of them is a word that a prompt or an explanation of an answer would use anyway, so that
a scorer can tell the items of a list from the talk around them.
"""

WORDS: tuple[str, ...] = tuple(
    """
    apple arm army art baby ball band bank barn bath beach bean bear bed bee bell belt bench bike
    bird boat bone book boot bottle bowl box boy brain branch bread brick bridge brush bus butter
    button cake camp candle card carpet cart castle cat cave chair cheese chicken clock cloth cloud
    coat coffee coin corn cotton cow crown cup curtain deer desk dish doctor dog doll door dress drum
    duck eagle ear earth egg engine eye face farm father feather fence finger fire fish flag flame
    floor flower fly foot forest fork fox frog fruit garden gate ghost girl glass glove goat gold
    grape grass guitar hair hammer hand hat heart hill honey hook horse hospital hotel house ice ink
    iron island jacket jar jewel juice king kitchen kite knee knife lake lamp leaf leather leg lemon
    lion lips lock magic mail map market mask meat medal milk mirror money monkey moon mountain mouse
    mouth museum music nail neck needle nest net nose nut ocean oil onion orange oven owl paint palace
    pan paper park pen pencil pepper phone piano pig pillow pilot pipe pizza planet plant plate pocket
    pond pot potato queen rabbit radio rain ribbon rice ring river road robot rock roof room root rope
    rose ruler sail salt sand school screen sea seed sheep shell ship shirt shoe shop silk silver
    sister sky smoke snail snake snow soap sock soup spider spoon spring stamp star stone storm street
    sugar suit sun table tail taxi tea teeth temple tent thread tiger tire toe tomato tongue tooth
    tower town toy train tree truck tunnel turtle umbrella uncle valley van vase village violin wagon
    wall watch water wave whale wheat wheel wind window wing winter wolf wood wool yard zebra
    """.split()
)
