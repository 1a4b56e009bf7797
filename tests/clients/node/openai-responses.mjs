// The openai package of npm, through responses.
import OpenAI from "openai";

import {
  base, description, drive, greeting, key, model, parameters, person, refusal, snow, story, tool,
  weather,
} from "./drive.mjs";

const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: key, maxRetries: 0 });
const tools = [{ type: "function", name: tool, parameters, strict: true }];

const called = (answer) => answer.output.find((item) => item.type === "function_call");
const result = ({ call_id }) => ({ type: "function_call_output", call_id, output: snow });
const read = (call) => ({ name: call.name, arguments: JSON.parse(call.arguments) });

await drive({
  async text() {
    const answer = await client.responses.create({ model, input: greeting });
    return { text: answer.output_text, usage: answer.usage.total_tokens };
  },

  async stream() {
    const stream = await client.responses.create({ model, input: greeting, stream: true });
    let text = "", parts = 0, usage;
    for await (const event of stream) {
      if (event.type === "response.output_text.delta") parts++, (text += event.delta);
      usage = event.response?.usage?.total_tokens ?? usage;
    }
    return { text, parts, usage };
  },

  async tools() {
    const input = [{ role: "user", content: weather }];
    const first = await client.responses.create({ model, input, tools });
    const call = called(first);
    input.push(...first.output, result(call));
    const second = await client.responses.create({ model, input, tools });
    return { text: second.output_text, call: read(call) };
  },

  async streamedTools() {
    const input = [{ role: "user", content: weather }];
    const first = await client.responses.stream({ model, input, tools }).finalResponse();
    const call = called(first);
    input.push(...first.output, result(call));
    const second = await client.responses.stream({ model, input, tools }).finalResponse();
    return { text: second.output_text, call: read(call) };
  },

  async structured() {
    const answer = await client.responses.parse({
      model,
      input: description,
      text: { format: { type: "json_schema", name: "person", schema: person, strict: true } },
    });
    return { value: answer.output_parsed };
  },

  async errors() {
    const respond = (more) => client.responses.create({ model, input: "Hi", ...more });
    const stranger = client.withOptions({ apiKey: "wrong" });
    return {
      wrong: await refusal(() => respond({ temperature: -3 })),
      unknown: await refusal(() => respond({ model: "nobody" })),
      stranger: await refusal(() => stranger.responses.create({ model, input: "Hi" })),
    };
  },

  async cancel() {
    const stream = await client.responses.create({ model, input: story, stream: true });
    for await (const event of stream) {
      if (event.type === "response.output_text.delta") break;
    }
    return { cancelled: stream.controller.signal.aborted };
  },
});
