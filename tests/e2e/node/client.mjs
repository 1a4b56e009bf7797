// Asks the worker at BASE_URL for everything, with the official client, and prints what came as one JSON object.
// It judges nothing: tests/e2e/test_node.py does.
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.BASE_URL,
  apiKey: process.env.API_KEY,
  maxRetries: 0,
});
const model = process.env.MODEL;
const messages = [{ role: "user", content: "How many days are in a week?" }];
const schema = {
  type: "object",
  properties: { days: { type: "integer" }, certain: { type: "boolean" } },
  required: ["days", "certain"],
  additionalProperties: false,
};
const tools = [
  {
    type: "function",
    function: { name: "note", description: "Writes a note", parameters: schema },
  },
];
const choice = { type: "function", function: { name: "note" } };

const asked = {
  async models() {
    const ids = [];
    for await (const each of client.models.list()) ids.push(each.id);
    return { ids, one: (await client.models.retrieve(model)).id };
  },

  async chat() {
    return client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 20 });
  },

  async chatStream() {
    const stream = await client.chat.completions.create({
      model,
      messages,
      temperature: 0,
      max_tokens: 20,
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    return {
      text: chunks.map((each) => each.choices[0]?.delta?.content ?? "").join(""),
      usage: chunks.at(-1).usage,
      reasons: chunks.flatMap((each) => each.choices.map((one) => one.finish_reason)).filter(Boolean),
    };
  },

  async helperStream() {
    const runner = client.chat.completions.stream({ model, messages, temperature: 0, max_tokens: 20 });
    let deltas = 0;
    runner.on("content", () => deltas++);
    return { completion: await runner.finalChatCompletion(), deltas };
  },

  async toolCall() {
    const runner = client.chat.completions.stream({
      model,
      messages,
      tools,
      tool_choice: choice,
      parallel_tool_calls: false,
      max_tokens: 100,
      seed: 1,
    });
    return runner.finalChatCompletion();
  },

  async schema() {
    return client.chat.completions.create({
      model,
      messages,
      response_format: { type: "json_schema", json_schema: { name: "week", schema, strict: true } },
      max_tokens: 100,
      seed: 1,
    });
  },

  async logprobs() {
    const options = { model, messages, temperature: 0, max_tokens: 3 };
    return client.chat.completions.create({ ...options, logprobs: true, top_logprobs: 2 });
  },

  async severalAnswers() {
    return client.chat.completions.create({ model, messages, n: 2, max_tokens: 8, seed: 1 });
  },

  async completions() {
    const prompt = ["1, 2, 3,", "a, b, c,"];
    return client.completions.create({ model, prompt, echo: true, temperature: 0, max_tokens: 6 });
  },

  async response() {
    return client.responses.create({ model, input: "Say hello.", temperature: 0, max_output_tokens: 12 });
  },

  async responseStream() {
    const stream = await client.responses.create({
      model,
      input: "Say hello.",
      temperature: 0,
      max_output_tokens: 12,
      stream: true,
    });
    const types = [];
    let text = "";
    let last;
    for await (const event of stream) {
      types.push(event.type);
      if (event.type === "response.output_text.delta") text += event.delta;
      last = event;
    }
    return { types, text, response: last.response };
  },

  async abort() {
    const stream = await client.chat.completions.create({
      model,
      messages,
      max_tokens: 4000,
      stream: true,
      ignore_eos: true,
    });
    for await (const chunk of stream) {
      if (chunk.choices[0].delta.content) break; // leaving the loop aborts the request
    }
    return { aborted: stream.controller.signal.aborted };
  },

  async refusal() {
    try {
      await client.chat.completions.create({ model, messages, temperature: -3 });
    } catch (error) {
      return { kind: error.constructor.name, status: error.status, code: error.code, param: error.param };
    }
  },
};

const results = {};
for (const [name, ask] of Object.entries(asked)) {
  try {
    results[name] = await ask();
  } catch (error) {
    results[name] = { failed: String(error) };
  }
}
console.log(JSON.stringify(results));
