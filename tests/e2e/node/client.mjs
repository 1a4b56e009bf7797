// Asks the worker at BASE_URL for everything, with the official client, and prints all results as
// one JSON object. tests/e2e/test_node.py checks them.
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

const format = { type: "json_schema", json_schema: { name: "week", schema, strict: true } };

async function refusalOf(ask) {
  try {
    await ask();
  } catch (error) {
    const { status, code, param } = error;
    return { kind: error.constructor.name, status, code, param };
  }
}

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
      reasons: chunks
        .flatMap((each) => each.choices.map((one) => one.finish_reason))
        .filter(Boolean),
    };
  },

  async helperStream() {
    const ask = { model, messages, temperature: 0, max_tokens: 20 };
    const runner = client.chat.completions.stream(ask);
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
      response_format: format,
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

  async callsOrDocument() {
    const answers = {};
    for (const [name, options] of Object.entries({
      required: { tool_choice: "required" },
      none: { tool_choice: "none" },
      auto: { tool_choice: "auto" },
    })) {
      const ask = {
        model,
        messages,
        tools,
        response_format: format,
        parallel_tool_calls: false,
        seed: 1,
        max_tokens: 100,
      };
      const whole = await client.chat.completions.create({ ...ask, ...options });
      const stream = client.chat.completions.stream({ ...ask, ...options });
      answers[name] = { whole, streamed: await stream.finalChatCompletion() };
    }
    return answers;
  },

  async stopped() {
    const prompt = "1, 2, 3, 4,";
    const ask = { model, prompt, temperature: 0, max_tokens: 16, stop: ["never", " 7"] };
    const whole = await client.completions.create(ask);
    let last;
    const stream = await client.completions.create({ ...ask, stream: true });
    for await (const chunk of stream) last = chunk;
    return { whole: whole.choices[0], last: last.choices[0] };
  },

  async settings() {
    const lines = messages[0].content.split(" in ");
    const parts = lines.map((text) => ({ type: "text", text }));
    return client.chat.completions.create({
      model,
      messages: [{ role: "user", content: parts }],
      max_completion_tokens: 8,
      frequency_penalty: 0.5,
      presence_penalty: 0.5,
      logit_bias: { 30: 1 },
      seed: 7,
      top_p: 0.9,
      min_p: 0.1,
      top_k: 20,
      reasoning_effort: "low",
      chat_template_kwargs: { enable_thinking: false },
    });
  },

  async matches() {
    const ask = { model, messages, max_tokens: 40, seed: 1 };
    return {
      regex: await client.chat.completions.create({ ...ask, guided_regex: "[0-9]{3}" }),
      grammar: await client.chat.completions.create({
        ...ask,
        grammar: 'root ::= [0-9] [0-9] [0-9]',
      }),
      object: await client.chat.completions.create({
        ...ask,
        response_format: { type: "json_object" },
      }),
    };
  },

  async embeddings() {
    const input = ["a cat", "a kitten"];
    const usual = await client.embeddings.create({ model, input });
    const written = await client.embeddings.create({ model, input, encoding_format: "float" });
    const short = await client.embeddings.create({ model, input: [504, 2644], dimensions: 8 });
    return { usual, written, short };
  },

  async ids() {
    const prompt = [33, 28, 216, 34, 28];
    return client.completions.create({ model, prompt, temperature: 0, max_tokens: 4 });
  },

  async suffix() {
    const ask = { model, prompt: "def f(", suffix: "return 1" };
    return refusalOf(() => client.completions.create(ask));
  },

  async responseCall() {
    const ask = {
      model,
      input: messages,
      tools: [{ type: "function", name: "note", parameters: schema, strict: true }],
      tool_choice: "required",
      parallel_tool_calls: false,
      temperature: 0,
      max_output_tokens: 100,
    };
    const whole = await client.responses.create(ask);
    const stream = client.responses.stream(ask);
    const types = [];
    let deltas = "";
    stream.on("event", (event) => types.push(event.type));
    stream.on("response.function_call_arguments.delta", (event) => (deltas += event.delta));
    const streamed = await stream.finalResponse();
    const { call_id } = whole.output[0];
    const result = { type: "function_call_output", call_id, output: "Noted." };
    const input = [...messages, ...whole.output, result];
    const more = { model, input, temperature: 0, max_output_tokens: 16 };
    const after = await client.responses.create(more);
    return { whole, streamed, types, deltas, after };
  },

  async response() {
    const input = "Say hello.";
    return client.responses.create({ model, input, temperature: 0, max_output_tokens: 12 });
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
    return refusalOf(() => client.chat.completions.create({ model, messages, temperature: -3 }));
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
