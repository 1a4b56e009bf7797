// What all drivers share: the worker's place, the questions, and the report on standard output.
//
// A driver gives `drive` a function for each feature. It reports what the client made of the
// answer, so that tests/clients/test_node_clients.py can judge it.

export const {
  base, key, model, greeting, weather, description, byCall, story, snow, tool, personTool,
  parameters, person,
} = JSON.parse(process.env.DRIVE);

export const refusal = async (ask) => {
  try {
    await ask();
  } catch (error) {
    const status = error.status ?? error.statusCode ?? error.status_code ?? error.cause?.status;
    return { kind: error.constructor.name, status, message: String(error.message) };
  }
  return { kind: "none" };
};

export const drive = async (features) => {
  const only = process.env.FEATURE;
  const results = {};
  for (const [name, ask] of Object.entries(features)) {
    if (only && only !== name) continue;
    try {
      results[name] = await ask();
    } catch (error) {
      results[name] = { failed: String(error?.stack ?? error) };
    }
  }
  process.stdout.write(JSON.stringify(results), () => process.exit(0));
};
