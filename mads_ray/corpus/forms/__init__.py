"""From a row of any form to the conversation that it holds."""
