"""What schemathesis does not know by itself."""

import schemathesis

# Settings are text, and any text is worth a try.
schemathesis.serializer.alias("application/toml", "text/plain")
