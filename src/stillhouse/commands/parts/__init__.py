"""What a recipe's stages work with: `Parts`, each made when it is first asked for, and what is done with them."""

from stillhouse.commands.parts.parts import Parts as Parts
