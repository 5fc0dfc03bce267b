"""Answers about the pictures of configs/prompts.yaml, as data for the judge."""

# Published with the original port: "Describe this image in detail." on the three pictures, first on a GPU, then on an
# NPU. The third GPU answer describes the first picture.
GPU = (
    """The image shows a group of men holding up the World Cup trophy while standing in front of a crowded stadium. The
    players are wearing blue and white jerseys and have their hands raised in the air, holding the trophy up to the
    camera. In the background, there is a large crowd of people cheering and waving flags. There are also fireworks
    going off in the sky, adding to the celebratory atmosphere. The image was taken during a soccer match where one team
    won the World Cup trophy.""",
    """This image shows a person holding two pieces of fried chicken in their hand, which are placed inside a cardboard
    container with the logo "20 for $10" on it. The container is placed on a table, and there are various dipping sauces
    visible in the background.
    The image depicts an individual enjoying a meal of fried chicken at a low price. The cardboard container suggests
    that the food is being offered as a bargain or deal. The dipping sauces add flavor to the chicken, making it more
    enjoyable to eat. Overall, the image suggests affordability and deliciousness.""",
    """This image shows a group of men holding up a trophy, all wearing the same blue and white striped jerseys. They
    are standing on a field with fireworks in the background. Some of the players are raising their arms in the air,
    while others are holding the trophy with both hands. The team's logo is on the front of the jersey, and they all
    have smiles on their faces. It seems to be a celebratory moment, with the players and crowd sharing in the joy of
    winning the trophy.""",
)
NPU = (
    """This image shows the Argentina soccer team holding up the World Cup trophy in celebration. The team is dressed in
    blue and white jerseys, with some players holding up their arms in the air while others hold up the trophy.
    Fireworks are exploding behind them, creating a colorful display of light and smoke.""",
    """The image is a box of fried dough balls, or tempura, sitting on a table next to a bowl of sauce. The box has the
    logo for KFC written on it in red and white letters. There are four balls of tempura in the box, each one a
    different color. One of the balls has been taken out and is being held by a hand in the foreground.
    The background of the image is a plain white with a few shadows and reflections visible from the lighting. The plate
    and sauce are also plain white. The colors used in the tempura add visual interest to the image, making it more
    dynamic and appetizing.""",
    """The image shows a man in a business suit sitting at a desk with a laptop in front of him. He is looking down at
    the screen and seems to be typing on the keyboard. There are several other computers and pieces of office equipment
    visible in the background, including a printer and a phone. The room is brightly lit, and there are shadows on the
    wall behind the man's head. The image has a professional and modern feel to it.""",
)

# Written for these tests by looking at the pictures, in the words that somebody else might use: no model said them.
WRITTEN = {
    "cockdial.png": """
    A smiling guy with a short beard takes a selfie next to a huge alligator. The animal lies in a calm pond with
    its mouth wide open, so that all of its sharp teeth can be seen. Trees and a cloudy sky are reflected in the
    background.
    """,
    "float.png": """
    The picture shows a lady in a long dark dress and a red hat who floats high above an old city. She holds a bunch
    of red balloons in one hand and a brown suitcase in the other. Birds and a small airship fly behind her under a
    pale green sky.
    """,
    "glip_test.jpg": """
    This is a cosy living room. There is a white loveseat against the wall and a striped couch in the foreground,
    with a black coffee table between them. A tall bookcase is full of novels, and the rug is covered with colourful
    splashes of paint.
    """,
    "sofa.jpg": """
    Several women and a man in black clothes are talking at the booth of a company during a trade fair. The walls
    and the carpet are bright red, with big white letters on the back wall. White bean bags and two green plants
    stand around, and a television hangs on the right.
    """,
    "thief.png": """
    A figure in a dark hoodie, whose face is hidden behind a black mask, aims a colourful toy pistol at the camera.
    It is made of yellow and red plastic. The windows behind belong to a bank, and papers seem to fly through the
    air on the left.
    """,
}
