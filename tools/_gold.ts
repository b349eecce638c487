import * as tf from "@tensorflow/tfjs";
import { startEngine } from "../core/engine.ts";
import { openModel } from "../models/load.ts";
import { forward, uploadModel, targetLogProbs } from "../models/llama.ts";
await startEngine("tensorflow");
let t=performance.now(); const lap=(s:string)=>{console.log(s,(performance.now()-t).toFixed(0),"ms", Deno.readTextFileSync("/proc/self/status").match(/VmHWM.*/)?.[0]); t=performance.now();};
const {source, tokenizer} = await openModel("/tmp/smol/SmolLM2-135M.gguf"); lap("open");
const m = await uploadModel(source); lap("upload"); console.log(source.config.layers[0], source.origin);
const g = JSON.parse(Deno.readTextFileSync("/work/shared/reference/goldens/smollm2-135m.json"));
for (const x of g.texts) { const ids = tokenizer.encode(x.text); const same = JSON.stringify(ids)===JSON.stringify(x.ids);
 const h=forward(m,{tokens:Int32Array.from(x.ids),batch:1,length:x.ids.length});
 const n=x.ids.length-1; const {logProbs}=await targetLogProbs(m, tf.slice(h,[0,0],[n,-1]) as tf.Tensor2D, Int32Array.from(x.ids.slice(1)));
 let d=0; logProbs.forEach((v,i)=>d=Math.max(d,Math.abs(v-x.tokenLogProbs[i]))); console.log(same, ids.length, "max diff", d); }
lap("goldens");
const text = Deno.readTextFileSync("/work/shared/data/wikitext2-tokens-valid.txt").split("\n").join("\n\n");
const ids = tokenizer.encode(text); lap("encode"); console.log(ids.length);
let s=0,c=0; for(let w=0;w<20;w++){const win=Int32Array.from(ids.slice(w*1024,(w+1)*1024)); const h=forward(m,{tokens:win,batch:1,length:1024}); const {logProbs}=await targetLogProbs(m,tf.slice(h,[0,0],[1023,-1]) as tf.Tensor2D,win.subarray(1),{greedy:false}); h.dispose(); for(const v of logProbs){s-=v;c++;}} lap("20 windows"); console.log(s/c, Math.exp(s/c));
